"""With π_old refreshed all methods fall as 1/batches; with π_old frozen they keep the laws of one batch."""

import math

import pytest

from analysis import flow, refresh
from dgpo.methods import get

METHODS = ["grpo", get("gppo", eps_high=0.2), "cispo", "dgpo", "pg"]


@pytest.fixture(scope="module")
def refreshed():
    return refresh.fall(METHODS, batches=300)


@pytest.mark.parametrize("key", ["grpo", "gppo", "cispo", "dgpo", "pg"])
def test_refreshed_it_falls_as_one_over_the_batches(refreshed, key):
    line = refreshed[refreshed["method"] == key]
    assert flow.exponent(line["batch"], line["pi"]) == pytest.approx(-1, abs=0.02)
    last = line.iloc[-1]
    predicted = 1 / (1 / 0.05 + 16 * 0.5 * (1 + 1 / flow.OTHERS) * last["batch"])
    assert last["pi"] == pytest.approx(predicted, rel=0.05)
    assert (line["lowest_ratio"].iloc[3:] > 0.8).all()  # so no method acts


def test_frozen_the_methods_part():
    end = refresh.fall(METHODS, batches=300, frozen=True).groupby("method")["pi"].last()
    assert end["grpo"] == pytest.approx(0.8 * 0.05, rel=0.03)  # it stops at the boundary
    assert end["gppo"] == pytest.approx(end["cispo"])
    assert end["gppo"] < 1e-12 < end["pg"] < end["dgpo"] < end["grpo"]


def test_many_large_updates_take_soft_clips_down_in_the_first_batch():
    first = refresh.fall(METHODS, batches=1, updates=64, lr=5.0).set_index("method")["lowest_ratio"]
    assert first["gppo"] < 1e-4
    assert first["cispo"] < 1e-4
    assert first["dgpo"] > 0.1
    assert first["grpo"] > 0.7


def test_a_step_is_that_of_the_expected_gradient():
    """One update by hand: softmax of 1 + others logits, gradient π_old · A · w (e_a − π), w = 1 at r = 1."""
    pi, lr, others = 0.3, 0.1, 4
    logits = [math.log(pi)] + [math.log((1 - pi) / others)] * others
    p = [pi] + [(1 - pi) / others] * others
    moved = [z - lr * pi * ((i == 0) - p[i]) for i, z in enumerate(logits)]
    expected = math.exp(moved[0]) / sum(map(math.exp, moved))
    found = refresh.fall(["dgpo"], 1, updates=1, lr=lr, pi_old=pi, others=others)
    assert found["pi"].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("given", [{"batches": 0}, {"batches": 1, "updates": 0}, {"batches": 1, "lr": 0}])
def test_counts_that_cannot_be_are_refused(given):
    with pytest.raises(ValueError, match="all must be positive"):
        refresh.fall(["dgpo"], **given)
