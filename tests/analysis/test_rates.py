"""Score against learning rate, on made-up runs."""

import pytest
from test_sweep_analysis import made_up

from analysis import rates
from analysis.sweeps import SweepError

LEVELS = {"method": {"grpo": {"method": "grpo"}, "gppo": {"method": "gppo"}}, "lr": [1e-5, 1e-4, 1e-3]}
EFFECTS = {
    **{("grpo", f"lr={lr}"): effect for lr, effect in (("1e-05", 0.18), ("0.0001", 0.2), ("0.001", 0.19))},
    **{("gppo", f"lr={lr}"): effect for lr, effect in (("1e-05", -0.1), ("0.0001", 0.3), ("0.001", -0.4))},
}


def test_the_best_rate_and_the_range_that_works():
    found = rates.table(made_up(EFFECTS, noise=0, shared=0, factors=LEVELS)).set_index("method")
    assert found["best lr"].to_dict() == {"GRPO": 1e-4, "GPPO": 1e-4}
    assert found["decades"].to_dict() == pytest.approx({"GRPO": 2, "GPPO": 0})
    assert found.loc["GPPO", "held-out avg@8 after the last step"] == pytest.approx(0.8)


def test_a_rate_at_which_a_run_collapsed_does_not_work():
    found = rates.table(made_up({}, noise=0, shared=0, factors=LEVELS, fell=["gppo"])).set_index("method")
    assert found.loc["GPPO", "collapsed there"] == "5 of 5"
    assert found["decades"].to_dict() == pytest.approx({"GRPO": 2, "GPPO": 0})


def test_a_plot_a_method_with_every_run():
    figure = rates.figure(made_up(EFFECTS, noise=0, shared=0, factors=LEVELS))
    first = figure.axes[0]
    assert [ax.get_title() for ax in figure.axes] == ["GRPO", "GPPO"]
    assert len(first.lines) == 2 + 2  # two means, the dots and the crosses
    assert sum(len(line.get_xdata()) for line in first.lines[2:]) == 3 * 5


def test_another_sweep_is_refused_by_name():
    with pytest.raises(SweepError, match=r"method and lr alone; there are: method$"):
        rates.table(made_up({}, factors={"method": LEVELS["method"]}))
