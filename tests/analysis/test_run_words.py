"""The words that a run's token records say, from a kept copy without checkpoint and policy."""

import pandas as pd
import pytest

from analysis import run_words, runs
from tests.running import execute, shown
from tests.running import run as train


@pytest.fixture(scope="module")
def kept(settings, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = runs.read(train(settings, run_dir=str(folder / "run"), steps=3, token_records=10**6))
    return made, runs.read(run_words.keep(made, folder / "kept", every=5, model="somewhere"))


def test_the_copy_has_the_numbers_and_neither_policy_nor_paths(kept):
    made, copy = kept
    pd.testing.assert_frame_equal(copy.metrics, made.metrics)
    assert copy.config.model == "somewhere"
    assert str(made.path) not in (copy.path / "config.yaml").read_text()
    assert not (copy.path / "policy").exists()
    assert set(copy.tokens()["step"]) == {1, 3}  # the first of every five and the last


def test_a_token_stands_between_the_words_of_its_completion(kept):
    made, copy = kept
    shown = run_words.largest(copy, count=5, around=100)
    texts = {
        "".join(run_words.words(copy)[t] for t in own.sort_values("position")["token"])
        for _, own in made.tokens().groupby(["step", "update", "sequence"])
    }
    assert len(shown) == 5
    assert set(shown["before"] + shown["token"] + shown["after"]) <= texts
    size = (shown["advantage"] * shown["w_prob"]).abs()
    assert size.is_monotonic_decreasing
    acting = copy.tokens()
    assert size[0] == pytest.approx((acting["advantage"] * acting["w_prob"]).abs().max(), rel=1e-6)


def test_the_words_of_a_region_count_all_of_its_tokens_that_act(kept):
    _, copy = kept
    tokens = copy.tokens()
    table = run_words.by_word(copy, "IN", count=1000)
    assert table["tokens"].sum() == ((tokens["region"] == "IN") & (tokens["advantage"] != 0)).sum()
    assert table["share of |A·w_prob|"].sum() == pytest.approx(1)


def test_a_run_that_was_not_kept(kept):
    with pytest.raises(runs.RunError, match=r"has no words\.json"):
        run_words.largest(kept[0])


def test_notebook_10_draws_kept_runs(kept, tmp_path):
    parameters = {"folder": str(kept[1].path.parent), "methods": [kept[1].path.name]}
    out = execute("10_a_language_model", tmp_path / "out.ipynb", parameters)
    assert sum("image/png" in data for data in shown(out)) == 4
    assert any("before" in data.get("text/html", "") for data in shown(out))
