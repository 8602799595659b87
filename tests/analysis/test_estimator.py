"""Exact moments of the gradient against Monte Carlo, against closed forms, and against the definition by autograd."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from analysis import estimator, phase
from analysis.landscape import resolve
from dgpo import methods

RNG = np.random.default_rng(0)


def problem(P=3, K=6, shift=1.0):
    old = RNG.normal(size=(P, K))
    return old, old + shift * RNG.normal(size=(P, K)), RNG.normal(size=(P, K))


TOKEN = [key for key in methods.names() if not methods.get_class(key).needs and methods.get_class(key).has_curve()]


@pytest.mark.parametrize("key", TOKEN)
def test_against_a_million_samples(key):
    """Each component of E g, and E ‖g‖², within four standard errors; fixed draws."""
    old, new, advantage = problem(P=1)
    rng, N = np.random.default_rng(1), 1_000_000
    pi_old, pi = (np.exp(z - z.max()) / np.exp(z - z.max()).sum() for z in (old[0], new[0]))
    tokens = rng.choice(len(pi), size=N, p=pi_old)
    logp, old_logp = (torch.tensor(np.log(p))[:, None] for p in (pi, pi_old))
    w = resolve(key).weight(logp, old_logp, torch.tensor(advantage[0])[:, None], torch.ones_like(logp))[:, 0].numpy()
    g = (w * advantage[0])[:, None] * (np.eye(len(pi)) - pi)  # of each token
    true = (pi * advantage[0]) @ (np.eye(len(pi)) - pi)
    counts = np.bincount(tokens, minlength=len(pi)) / N
    mean, second = counts @ g, counts @ (g**2).sum(1)
    got = estimator.exact(key, old, new, advantage)
    error = np.sqrt((pi_old @ g**2 - (pi_old @ g) ** 2) / N)
    assert (np.abs(mean - pi_old @ g) <= 4 * error + 1e-15).all()
    squares = (g**2).sum(1)
    spread = np.sqrt((pi_old @ squares**2 - (pi_old @ squares) ** 2) / N)
    size = (true**2).sum()
    exact_mean = pi_old @ g
    assert abs(second - (got.variance[0] * size + (exact_mean**2).sum())) <= 4 * spread + 1e-15
    assert got.bias[0] == pytest.approx(((exact_mean - true) ** 2).sum() / size, abs=1e-12)


def test_unclipped_importance_sampling_is_unbiased_and_its_gradient_that_of_the_value():
    old, new, advantage = problem()
    got = estimator.exact("pg", old, new, advantage)
    np.testing.assert_allclose(got.bias, 0, atol=1e-25)
    np.testing.assert_allclose(got.cosine, 1)
    z = torch.tensor(new, requires_grad=True)
    (z.softmax(1) * torch.tensor(advantage)).sum().backward()
    pi = torch.tensor(new).softmax(1).numpy()
    np.testing.assert_allclose(z.grad.numpy(), pi * advantage - pi * (pi * advantage).sum(1, keepdims=True))


def test_before_any_update_every_clip_is_unbiased():
    """At π = π_old all ratios are 1, and every trust-region method weighs each token 1."""
    old, _, advantage = problem()
    for key in ("grpo", "cispo", "gppo", "ce_gppo", "dgpo"):
        got = estimator.exact(key, old, old, advantage)
        np.testing.assert_allclose(got.bias, 0, atol=1e-25)
        np.testing.assert_allclose(got.variance, estimator.exact("pg", old, old, advantage).variance)


def test_policies_do_not_know_of_each_other():
    old, new, advantage = problem(P=4)
    together = estimator.exact("dgpo", old, new, advantage)
    for i in range(4):
        alone = estimator.exact("dgpo", old[i : i + 1], new[i : i + 1], advantage[i : i + 1])
        assert alone.bias[0] == pytest.approx(together.bias[i], rel=1e-12)


def test_a_method_without_gradient_has_the_bias_of_silence():
    old = np.zeros((1, 2))
    new, advantage = np.array([[2.0, -2.0]]), np.array([[1.0, -1.0]])  # both tokens are past the boundary
    got = estimator.exact("grpo", old, new, advantage)
    assert (got.bias[0], got.variance[0]) == (1, 0)
    assert np.isnan(got.cosine[0])


def test_the_crossing_is_where_errors_are_equal():
    old, new, advantage = problem(P=20, K=30, shift=2.0)
    a, b = (estimator.exact(key, old, new, advantage) for key in ("dgpo", "grpo"))
    N = estimator.crossing(a, b)
    assert (N > 0).any()
    np.testing.assert_allclose(a.mse(N), b.mse(N), rtol=1e-9)


@given(st.floats(1e-6, 0.9), st.integers(1, 100_000))
def test_the_best_gate_is_the_minimum_that_a_search_finds(pi_old, samples):
    def error(g):
        return (1 - g) ** 2 + g**2 * (1 / pi_old - 1) / samples

    found = minimize_scalar(error, bounds=(0, 1), method="bounded", options={"xatol": 1e-10}).x
    assert estimator.best_gate(pi_old, samples) == pytest.approx(found, abs=1e-6)


def test_other_shapes_are_refused_and_a_policy_without_gradient_has_no_moments():
    with pytest.raises(ValueError, match="must all be"):
        estimator.exact("dgpo", np.zeros(3), np.zeros(3), np.zeros(3))
    silent = estimator.exact("dgpo", np.zeros((2, 3)), np.zeros((2, 3)), np.array([[1.0, 1, 1], [1, 0, 0]]))
    assert np.isnan(silent.mse(8)).tolist() == [True, False]


class TestPhase:
    @pytest.mark.parametrize("shift", phase.SHIFTS)
    def test_policies_lie_at_the_distance_asked_for(self, shift):
        made = phase.Family(policies=5, tokens=12, shift=shift)
        for distance in (1e-3, 0.1, 1.0):
            np.testing.assert_allclose(made.distance(made.moved(distance)), distance, rtol=1e-6)

    def test_advantages_are_centred_and_group_normalised_ones_have_unit_variance(self):
        for kind in phase.ADVANTAGES:
            made = phase.Family(policies=50, tokens=10, advantages=kind)
            np.testing.assert_allclose((made.pi_old * made.advantage).sum(1), 0, atol=1e-12)
        np.testing.assert_allclose((made.pi_old * made.advantage**2).sum(1), 1)

    def test_the_diagram_names_the_method_of_least_error(self):
        made = phase.diagram(phase.Family(policies=20, tokens=16), ("pg", "grpo", "dgpo"), [1e-3, 0.5], [1, 10, 10**7])
        assert made.error.shape == (3, 2, 3)
        assert made.winner[:, -1].tolist() == ["pg", "pg"]  # with samples without end only bias counts
        assert (made.regret("pg")[:, -1] == 1).all()
        assert (made.regret("grpo") >= 1).all()
        best = made.error.min(0)
        np.testing.assert_allclose(made.regret("grpo") * best, made.error[1])

    def test_the_best_dgpo_is_no_worse_than_the_fixed_ones(self):
        family = phase.Family(policies=20, tokens=16)
        fixed = phase.diagram(family, [methods.get("dgpo", n=n, m=m) for n in (1, 2) for m in (1, 2)], [0.5], [8, 4096])
        best, where = phase.best_dgpo(family, [0.5], [8, 4096])
        assert (best <= fixed.error.min(0) + 1e-12).all()
        assert where.shape == (1, 2, 2)
