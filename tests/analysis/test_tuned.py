"""Every method at its own learning rate."""

import numpy as np
import pytest

from analysis import bandit, tuned
from analysis.bandit import Setting

WORLDS = [Setting(name="plain", arms=4, groups=1), Setting(name="noisy", arms=4, groups=1, flip=0.2)]
RATES = (0.1, 0.5, 2.0)


@pytest.fixture(scope="module")
def found():
    return tuned.against_rate(["grpo", "dgpo", "pg"], WORLDS, RATES, seeds=6, steps=30)


def test_the_regret_at_a_rate_is_that_of_the_world_at_that_rate(found):
    alone = bandit.run("dgpo", Setting(arms=4, groups=1, lr=0.5), seeds=6, steps=30, points=2)
    row = found[(found["world"] == "plain") & (found["method"] == "dgpo") & (found["lr"] == 0.5)].squeeze()
    final = alone.data["cumulative_regret"][0, 0, :, -1]
    assert row["mean"] == pytest.approx(final.mean())
    assert row["error"] == pytest.approx(final.std(ddof=1) / 6**0.5)
    assert len(found) == 3 * 2 * 3


def test_best_is_the_least_regret_of_each(found):
    best = tuned.best(found)
    assert len(best) == 6
    for row in best.itertuples():
        mine = found[(found["world"] == row.world) & (found["method"] == row.method)]
        assert row.mean == mine["mean"].min()


def test_at_their_best_rates_methods_meet_fresh_seeds_and_the_reference_its_own_rate(found):
    table = tuned.at_best(["grpo", "dgpo", "pg"], WORLDS, found, seeds=8, steps=30)
    best = tuned.best(found).set_index(["world", "method"])
    for world in ("plain", "noisy"):
        assert table.loc[(world, "DGPO"), "lr"] == best.loc[(world, "dgpo"), "lr"]
        d = table.loc[(world, "DGPO"), "mean"] - table.loc[(world, "GRPO"), "mean"]
        assert table.loc[(world, "DGPO"), "difference"] == pytest.approx(d)
        assert np.isnan(table.loc[(world, "GRPO"), "p"])
        assert table.loc[(world, "GRPO"), "mean"] != best.loc[(world, "grpo"), "mean"]  # other seeds
    assert table["p"].dropna().between(0, 1).all()


def test_a_panel_for_each_world(found):
    axes = [ax for ax in tuned.figure(found).axes if ax.get_title()]
    assert [ax.get_title() for ax in axes] == ["plain", "noisy"]
    assert all(len([line for line in ax.lines if len(line.get_xdata()) == 3]) == 3 for ax in axes)
