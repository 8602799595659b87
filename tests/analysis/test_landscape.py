"""analysis.landscape: the curves are the methods' own weights, in three spaces, and bad weights are named."""

import math

import numpy as np
import pytest
import torch

from analysis.landscape import landscape, ratio_grid, resolve, score_norm, weigh
from dgpo.methods import PAPER, get, get_class, names


@pytest.mark.parametrize("key", [key for key in names() if get_class(key).has_curve()])
def test_the_columns_are_one_weight_in_three_spaces(key):
    frame = landscape(key, 0.05, points=101)
    assert set(frame["advantage"]) == {1.0, -1.0}
    assert frame["pi"].max() <= 1
    assert np.isclose(frame["ratio"].max(), 20)
    np.testing.assert_allclose(frame["w_log"], frame["gate"] * frame["ratio"])
    np.testing.assert_allclose(frame["w_log"], frame["w_prob"] * frame["pi"], rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(frame["logit"], frame["w_log"].abs() * (1 - frame["pi"]))


def test_points_of_a_curve_are_independent_for_sequence_methods():
    log_r = np.linspace(-2, 2, 41)
    for key in ("gspo", "gmpo", "vespo", "opsm"):
        alone = [float(weigh(get(key), x, -1.0)) for x in log_r]
        np.testing.assert_allclose(weigh(get(key), log_r, -1.0), alone)


def test_both_sides_of_a_jump_are_on_the_grid():
    frame = landscape("grpo", points=11).query("advantage < 0")
    near = frame[(frame["ratio"] - 0.8).abs() < 1e-6]
    assert near["w_log"].min() == 0
    assert np.isclose(near["w_log"].max(), 0.8)


def test_unclipped_importance_sampling_is_the_unit():
    assert np.allclose(landscape("pg")["gate"], 1)


def test_negative_weights_are_kept():
    frame = landscape(get("drpo", eps=0.3))
    assert frame["w_log"].min() < 0
    assert frame["logit"].min() >= 0


def test_score_norm_is_the_length_of_the_softmax_score():
    z = torch.tensor([1.3, 0.0, 0.0, 0.0], dtype=torch.float64)
    p = z.softmax(0)
    score = torch.eye(4, dtype=torch.float64)[0] - p
    assert math.isclose(float(score.norm()), float(score_norm(p[0], others=3)))
    assert np.isclose(score_norm(0.3), 0.7)
    assert np.isclose(score_norm(0.3, 1), 0.7 * math.sqrt(2))


class _Bare:
    def __init__(self, weight):
        self.weight = weight

    key = "culprit"


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (lambda logp, old, a, mask: torch.full_like(logp, math.nan), "culprit.weight returned NaN"),
        (lambda logp, old, a, mask: torch.ones(3), r"culprit.weight returned .*\(3,\)"),
        (lambda logp, old, a, mask: 1.0, "culprit.weight returned 1.0"),
        (lambda logp, old, a, mask: (logp - old).exp(), "culprit.weight tracks gradients"),
    ],
)
def test_bad_weights_are_named(weight, message):
    with pytest.raises(ValueError, match=message):
        weigh(_Bare(weight), np.zeros(5), 1.0)


def test_bad_inputs():
    with pytest.raises(ValueError, match=r"pi_old=1.5"):
        ratio_grid(1.5)
    with pytest.raises(ValueError, match=r"unknown method 'dgop'.*did you mean 'dgpo'"):
        landscape("dgop")
    with pytest.raises(ValueError, match="no method given"):
        landscape([])
    with pytest.raises(TypeError, match="is not a method"):
        resolve(3)
    with pytest.raises(ValueError, match="eps_low"):
        landscape(get("dgpo", eps_low=1.5))
    assert resolve("dgpo") == get("dgpo")
    assert len(landscape(PAPER)["method"].unique()) == 6
