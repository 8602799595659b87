"""The words that a run's token records say, from a kept copy without checkpoint and policy."""

import shutil

import pandas as pd
import pytest
from running import execute, shown
from running import run as train

from analysis import run_words, runs


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
    says = run_words.words(copy, [])
    texts = {
        "".join(says[t] for t in own.sort_values("position")["token"])
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


def test_a_run_that_was_not_kept_has_the_words_of_its_tokenizer(kept):
    made, copy = kept
    tokens = copy.tokens()["token"]
    assert run_words.words(made, tokens) == run_words.words(copy, [])


def test_a_run_without_its_model_has_no_words(kept, tmp_path):
    path = shutil.copytree(kept[1].path, tmp_path / "moved")
    (path / "words.json").unlink()
    with pytest.raises(runs.RunError, match=r"neither words\.json nor a tokenizer"):
        run_words.largest(runs.read(path))


def test_a_gap_in_the_records_is_a_gap_in_the_text():
    frame = pd.DataFrame({"position": [0, 1, 4, 5, 9], "token": range(5), "step": 1, "update": 0, "sequence": 2})
    (row,) = frame[frame["position"] == 4].itertuples()
    assert run_words.context(frame, row, dict(enumerate("abcde"))) == ["ab … ", "d … e"]
    assert run_words.context(frame, row, dict(enumerate("abcde")), around=1) == [" … ", "d"]


def test_notebook_10_draws_kept_runs(kept, tmp_path):
    parameters = {"folder": str(kept[1].path.parent), "methods": [kept[1].path.name]}
    out = execute("10_a_language_model", tmp_path / "out.ipynb", parameters)
    assert sum("image/png" in data for data in shown(out)) == 5
    assert any("before" in data.get("text/html", "") for data in shown(out))
