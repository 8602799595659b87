"""What the explorer tells the browser: weights by the method's own function, a run's tokens, and what is wrong."""

import math

import numpy as np
import pandas as pd
import pytest
import running
from running import SMALL

from analysis import run_words, runs
from analysis.explorable import bundle
from analysis.explorer import COLUMNS, Explorer, some
from analysis.landscape import weigh
from dgpo import methods
from dgpo.methods import REGIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return running.run(SMALL, run_dir=str(tmp_path_factory.mktemp("runs") / "a"))


@pytest.fixture(autouse=True)
def suite(monkeypatch):
    """The suite's own methods alone: other tests of this process may have registered more."""
    known = {k: kind for k, kind in methods.base._REGISTRY.items() if kind.__module__.startswith("dgpo.")}
    monkeypatch.setattr(methods.base, "_REGISTRY", known)


@pytest.fixture
def own(suite):
    """A method "my own" that is registered for one test."""

    @methods.register("my own")
    class Own(methods.Method):
        power: float = 0.5
        noisy: bool = False

        def weight(self, logp, old_logp, advantage, mask=None):
            if self.power == 7:
                raise RuntimeError("no sevens")
            return (self.power * (logp - old_logp)).exp() * (math.nan if self.power == 0 else 1)


def asked(explorer, message):
    """The answer to a message from the browser."""
    sent = []
    explorer.send = sent.append
    explorer._answer(message)
    return sent


def test_the_weights_that_a_figure_asks_for_are_the_method_s_own(own):
    explorer = Explorer()
    curve = {"key": "my_own", "params": {"power": 2.0}, "A": -1, "old": 0.05, "points": [-3.0, 0.0, 0.25]}
    ((answer,),) = (m["curves"] for m in asked(explorer, {"kind": "weights", "curves": [curve]}))
    np.testing.assert_allclose(answer["weights"], np.exp(2 * np.array(curve["points"])), rtol=1e-14)
    assert {k: answer[k] for k in curve} == curve, "the browser finds its question by what it asked"


def test_infinity_goes_there_and_back_as_a_word():
    curve = {"key": "dgpo", "params": {"m": "inf"}, "A": 1, "old": 1e-6, "points": [2.0]}
    (message,) = asked(Explorer(), {"kind": "weights", "curves": [curve]})
    expected = weigh(methods.get("dgpo", m=math.inf), 2.0, 1, 1e-6)
    assert message["curves"][0]["weights"] == [pytest.approx(float(expected))]
    huge = {"key": "pg", "params": {}, "A": 1, "old": 1e-6, "points": [800.0]}
    (message,) = asked(Explorer(), {"kind": "weights", "curves": [huge]})
    assert message["curves"][0]["weights"] == ["Infinity"]


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({"power": 0}, "my own: ValueError: my own.weight returned NaN"),
        ({"power": 7}, "my own: RuntimeError: no sevens"),
        ({"power": None}, "my own: ValueError: method 'my own': power=None must be a number"),
    ],
)
def test_what_a_method_raises_is_the_answer(own, params, says):
    curve = {"key": "my_own", "params": params, "A": 1, "old": 0.05, "points": [0.5]}
    (message,) = asked(Explorer(), {"kind": "weights", "curves": [curve]})
    assert message["curves"][0]["error"].startswith(says)


def test_a_method_of_one_s_own_is_shown_and_has_a_dial_for_each_number(own):
    explorer = Explorer(state="n=2")
    assert explorer.state == "n=2&show=my_own,dgpo,grpo,cispo,pg"
    assert Explorer(state="show=pg").state == "show=pg"
    assert set(bundle.described("my own")["params"]) == {"power"}
    assert '"my_own": {"label": "my own"' in explorer._esm


def test_without_one_the_explorer_opens_as_the_page_does():
    assert Explorer().state == ""


def test_the_tokens_are_those_of_the_run(folder):
    explorer, records = Explorer(run=folder), runs.read(folder).tokens()
    found = dict(zip(COLUMNS, np.frombuffer(explorer.tokens).reshape(len(COLUMNS), -1), strict=True))
    acting = records[records["advantage"] != 0].sort_values(["step", "sequence", "update", "position"])
    assert len(found["ratio"]) == len(acting) > 0
    for name in ("step", "update", "position", "advantage", "ratio", "prob", "w_log", "w_prob"):
        np.testing.assert_array_equal(found[name], acting[name].astype("float64"))
    np.testing.assert_allclose(found["prob"], found["ratio"] * found["old_prob"], rtol=1e-5)
    assert [REGIONS[int(i)] for i in found["region"]] == list(acting["region"])


def test_a_token_s_context_is_its_answer(folder):
    explorer, run = Explorer(run=folder), runs.read(folder)
    (answer,) = asked(explorer, {"kind": "context", "token": 3})
    (row,) = explorer._shown.iloc[[3]].itertuples()
    says = run_words.words(run, run.tokens()["token"])
    assert [answer["before"], answer["after"]] == run_words.context(run.tokens(), row, says)
    assert asked(explorer, {"kind": "context", "token": 10**6}) == []


@pytest.mark.parametrize("case", ["no run", "no records"])
def test_what_is_wrong_with_a_run_is_said_in_its_place(tmp_path, case):
    silent = tmp_path / "silent"
    if case == "no records":
        running.run({**SMALL, "steps": 1}, run_dir=str(silent), token_records=0)
    says = {"no run": "is not the folder of a run", "no records": "has no token records"}[case]
    explorer = Explorer(run=silent)
    assert says in explorer._esm
    assert explorer.tokens == b""
    assert f'"folder": "{silent}"' in explorer._esm  # what "Copy this state" writes


def test_tokens_outside_the_trust_region_are_drawn_first():
    records = pd.DataFrame({"region": ["IN"] * 50 + ["LN", "HP", "HN"] + ["IN"] * 50, "place": range(103)})
    drawn = some(records, most=5)
    assert set(drawn["place"]) > {50, 51, 52}
    assert len(drawn) == 5
