"""analysis.flow and leakage: solver, discrete ascent and closed forms agree within 1 %."""

import math

import numpy as np
import pytest
import torch

from analysis.flow import ascent, exponent, flow, law, time_to, verify
from analysis.leakage import leakage
from dgpo.methods import get


def test_left_boundary_laws_within_one_percent():
    table = verify(["grpo", "gppo", "cispo", "pg", "dgpo", get("dgpo", n=2.0)], steps=1500)
    assert (table["error"] < 0.01).all(), table
    np.testing.assert_allclose(table["expected"], [0.8, -0.8 * 32 / 31, -0.8 * 32 / 31, -1, -1 / 2, -1 / 3], rtol=1e-6)


def test_right_boundary_law_within_one_percent():
    table = verify(["dgpo", "pg", "gppo"], steps=3000, advantage=1.0)
    assert (table["error"] < 0.01).all(), table


def test_coefficients_not_only_exponents():
    late = np.array([1e4, 1e5])
    for m in ("pg", "dgpo"):
        form = law(m)
        np.testing.assert_allclose(flow(m, late)["pi"], form.coefficient * late**form.exponent, rtol=2e-3)


def test_finite_time_extinction_and_stopping():
    def inverse(logp, old_logp, advantage, mask):
        return (-0.5 * (logp - old_logp).detach()).exp()

    assert law(inverse).kind == "extinction"
    assert str(law("grpo")) == "stops"
    assert flow("grpo", [1e3])["ratio"].iloc[0] == pytest.approx(0.8)
    assert flow("grpo", [1e3], advantage=1.0)["ratio"].iloc[0] == pytest.approx(1.2)


def test_small_steps_follow_the_flow_on_the_logits():
    steps = ascent("dgpo", 400, lr=0.01)
    np.testing.assert_allclose(flow("dgpo", steps["time"])["log_pi"], steps["log_pi"], rtol=1e-3)


def test_the_equation_itself_by_autograd():
    z = torch.tensor([0.3, -1.0, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    z.log_softmax(0)[0].backward()
    p = z.softmax(0).detach()
    push = torch.eye(4, dtype=torch.float64)[0] - p
    torch.testing.assert_close(z.grad @ push, push.square().sum())


def test_climbing_time_is_logarithmic_or_constant():
    gppo, dgpo = ([time_to(get(k), 0.5, p) for p in (1e-4, 1e-6)] for k in ("gppo", "dgpo"))
    assert gppo[1] - gppo[0] == pytest.approx(math.log(100) / (1.28 * 32 / 31), rel=0.01)
    assert dgpo[1] == pytest.approx(dgpo[0], rel=0.02)
    assert time_to("grpo", 0.5) == math.inf


def test_a_soft_clip_drags_the_others_and_dgpo_less():
    for policy in ("tabular", "linear", "mlp"):
        last = leakage(["gppo", "dgpo"], policy=policy, steps=150, seeds=3, arms=16).query("time == time.max()")
        drift = last.groupby("method")["drift"].mean()
        assert drift["dgpo"] < drift["gppo"] / 2


def test_bad_inputs():
    for times in ([], [1, 1], [-1, 2], [0.0, 1]):
        with pytest.raises(ValueError, match="times must be"):
            flow("dgpo", times)
    with pytest.raises(ValueError, match="pi_old=0"):
        flow("dgpo", [1.0], pi_old=0)
    with pytest.raises(ValueError, match="others=0"):
        flow("dgpo", [1.0], others=0)
    with pytest.raises(ValueError, match="steps=0"):
        ascent("dgpo", 0)
    with pytest.raises(ValueError, match="advantage=0"):
        flow("dgpo", [1.0], advantage=0)
    with pytest.raises(ValueError, match=r"target=0.01"):
        time_to("dgpo", 0.01)
    with pytest.raises(ValueError, match="an exponent needs"):
        exponent([1, 2, 3], [1, 0, 0])


@pytest.mark.parametrize("policy", ["tabular", "linear", "mlp"])
def test_one_pushed_token_takes_every_method_along_the_same_path(policy):
    """dθ ∝ −w_log ∇log π(a): a weight sets the speed alone, so drift is one function of log π, up to the step size."""
    found = leakage(["gppo", "dgpo", "pg"], policy=policy, steps=600, lr=0.02, seeds=2)
    for _, seed in found.groupby("seed"):
        paths = {m: part.sort_values("time") for m, part in seed.groupby("method")}
        lowest = max(path["log_pi"].min() for path in paths.values())
        at = np.linspace(lowest, seed["log_pi"].max(), 6)[:-1]
        drift = {m: np.interp(-at, -path["log_pi"], path["drift"]) for m, path in paths.items()}
        for other in ("dgpo", "pg"):
            np.testing.assert_allclose(drift[other], drift["gppo"], rtol=0.02, atol=1e-4)
        ends = {m: path["log_pi"].iloc[-1] for m, path in paths.items()}
        assert ends["gppo"] < ends["pg"] < ends["dgpo"]  # and the speeds differ
