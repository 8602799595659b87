"""analysis.bandit: the batched program is the plain loop, its worlds are what they say, and it is much faster."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from analysis import bandit
from analysis.bandit import METRICS, Setting, run, variants
from analysis.bandit_problem import Draws
from analysis.policies import make
from dgpo.methods import PAPER, Method, get, get_class, names

_spec = importlib.util.spec_from_file_location("bandits", Path(__file__).parents[2] / "benchmarks" / "bandits.py")
bandits = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(bandits)


@pytest.mark.parametrize("epochs", [1, 2])
def test_the_batched_program_is_the_plain_loop(epochs, monkeypatch):
    """Same random numbers, same trajectory, for all six methods: the NumPy loop has weights of its own."""
    setting = Setting(arms=8, groups=2, group=4, minibatches=4, epochs=epochs, lr=1.5)
    problems, problem = [], bandit.Problem
    monkeypatch.setattr(bandit, "Problem", lambda *args: problems.append(problem(*args)) or problems[-1])
    steps, seeds = 12, 3
    found = run(PAPER, setting, seeds=seeds, steps=steps, points=steps)
    same = Draws(range(seeds), 0, "cpu", torch.float64)
    same.rand(2, 8)  # the problem's own
    draws = np.stack([torch.stack(numbers[:2]).numpy() for numbers in same.steps(steps, 8, normal=False)])
    for i, key in enumerate(PAPER):
        weight = bandits.numpy_weights(get(key))
        for s in range(seeds):
            mean = problems[0].phases[0][1][s].numpy()
            plain, _ = bandits.plain(weight, np.zeros(8), mean, 0.9, steps, setting, None, draws[:, :, s])
            assert found.data["cumulative_regret"][i, 0, s, -1] == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("policy", ["tabular", "linear", "mlp"])
def test_a_result_does_not_depend_on_what_else_runs(policy):
    """Not on the other settings, of the same shape or another; nor on how many seeds, steps or bandits at a time."""
    setting = Setting(policy=policy, arms=8, groups=1, flip=0.1)
    others = [*variants(setting, lr=[0.1, 2.0]), *variants(setting, arms=[4, 16]), *variants(setting, flip=[0.0])]
    alone = run(["grpo", "dgpo"], setting, seeds=3, steps=70, points=70)
    among = run(["dgpo", "pg"], [*others[:3], setting, *others[3:]], seeds=5, steps=90, points=90, block=7)
    for metric in ("regret", "p_best", "w_max"):
        ours, theirs = alone.data[metric][1, 0], among.pick(setting.name).data[metric][0, 0, :3, :70]
        np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-12)


def test_settings_are_paired_over_seeds():
    """Two settings of one shape have the same problems: before the first update their regrets are equal."""
    found = run("pg", variants(Setting(), lr=[0.1, 2.0]), seeds=4, steps=2, points=2)
    np.testing.assert_array_equal(found.data["regret"][0, 0, :, 0], found.data["regret"][0, 1, :, 0])
    assert len({*found.data["regret"][0, 0, :, 0]}) == 4


def test_methods_share_problems_and_random_numbers():
    found = run(["pg", get("dgpo", n=3.0), "pg"], Setting(lr=0.5), seeds=4, steps=10)
    np.testing.assert_array_equal(found.data["regret"][0], found.data["regret"][2])
    assert (found.data["regret"][0, ..., 0] == found.data["regret"][1, ..., 0]).all()
    again = run(["pg"], Setting(lr=0.5), seeds=4, steps=10)
    np.testing.assert_allclose(again.data["regret"][0], found.data["regret"][0], rtol=1e-12)


@pytest.mark.parametrize("policy", ["tabular", "linear", "mlp"])
def test_it_learns_and_records(policy):
    found = run(["grpo", "dgpo"], Setting(policy=policy, arms=8, lr=0.5), seeds=8, steps=80, points=9)
    assert set(found.data) == set(METRICS)
    assert all(np.isfinite(v).all() for v in found.data.values())
    assert found.data["regret"][..., -1].mean() < 0.5 * found.data["regret"][..., 0].mean()
    shares = sum(found.data[k] for k in METRICS if k.startswith("share_"))
    np.testing.assert_allclose(shares, 1)
    assert (found.data["gradient_variance"] >= -1e-12).all()
    assert found.frame().shape == (2 * 8 * len(found.step), 5 + len(METRICS))
    assert found.scores("p_best", 1).shape == (8, 1)


@pytest.mark.parametrize("policy", ["linear", "mlp"])
def test_shared_parameters_follow_autograd(policy):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 2, 5, generator=generator, dtype=torch.float64)
    model = make(policy, z.clone(), 3, 4, lambda *shape: torch.randn(2, *shape, generator=generator, dtype=z.dtype))
    torch.testing.assert_close(model.z, z)
    push = torch.randn(1, 2, 5, generator=generator, dtype=torch.float64)
    if policy == "linear":
        theta = torch.zeros(1, 2, 3, dtype=torch.float64, requires_grad=True)
        parameters, logits = [theta], lambda t: z + torch.einsum("bkd,mbd->mbk", model.features, t)
    else:
        v, w = model.v.clone().requires_grad_(), model.w.clone().requires_grad_()
        f0 = model.f.clone()

        def logits(v, w):
            h = torch.tanh(torch.einsum("mbhd,bkd->mbkh", w, model.features))
            return z + torch.einsum("mbkh,mbh->mbk", h, v) - f0

        parameters = [v, w]
    (logits(*parameters) * push).sum().backward()
    scale = [1.0] if policy == "linear" else [model.scale**2, 1.0]  # v learns at 1/hidden of the rate
    moved = logits(*(p.detach() + s * p.grad for p, s in zip(parameters, scale, strict=True)))
    length = sum(s * p.grad.square().flatten(2).sum(-1) for p, s in zip(parameters, scale, strict=True))
    torch.testing.assert_close(model.norm2(push), length)
    model.step(push)
    torch.testing.assert_close(model.z, moved)


def test_the_worlds_are_what_they_say():
    setting = Setting(arms=10, optimal=2, p_best=0.01, wrong=3, change_at=5, others=0.4)
    problem = bandit.Problem([setting] * 6, Draws(range(6), 0, "cpu", torch.float64), "cpu", torch.float64)
    good, mean, paid = problem.at(0)
    assert (good.sum(1) == 2).all()
    torch.testing.assert_close(mean[good], torch.full((12,), 0.9, dtype=torch.float64))
    assert mean[~good].max() < 0.4
    assert ((paid == 0.9).sum(1) == 5).all()
    p = problem.logits.softmax(1)
    torch.testing.assert_close(p[good], torch.full((12,), 0.01, dtype=torch.float64))
    later = problem.at(5)[0]
    assert not (good & later).any()
    draws = Draws(range(2000), 0, "cpu", torch.float64)
    flipped = bandit.Problem([Setting(flip=0.25)] * 2000, draws, "cpu", torch.float64)
    _, noise, flip = next(draws.steps(1, 16, normal=False))
    reward = flipped.pay(torch.ones(1, 2000, 16, dtype=torch.float64), noise, flip)
    assert reward.mean() == pytest.approx(0.75, abs=0.01)


def test_settings_of_different_shape_run_together():
    settings = [*variants(Setting(groups=1), arms=[4, 8]), Setting(name="graded", reward="graded", best=2.0, noise=0.2)]
    found = run("dgpo", settings, seeds=3, steps=6)
    assert found.settings == ("arms=4", "arms=8", "graded")
    assert np.isfinite(found.data["regret"]).all()
    assert found.pick("graded").data["regret"].shape[1] == 1


def test_every_method_runs():
    curves = [key for key in names() if get_class(key).has_curve()]
    assert np.isfinite(run(curves, Setting(arms=4), seeds=2, steps=3).data["regret"]).all()


def test_more_seeds_are_no_more_operations():
    """All seeds step together: a seed adds its random stream and nothing to a step. How fast: benchmarks/bandits.py."""

    class Counter(TorchDispatchMode):
        operations = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.operations += 1
            return func(*args, **(kwargs or {}))

    def operations(seeds):
        with Counter() as counter:
            run(["grpo", "dgpo"], Setting(groups=4), seeds=seeds, steps=5)
        return counter.operations

    few, many = operations(8), operations(64)
    assert few > 500
    assert many - few <= 4 * (64 - 8)


def test_the_benchmark_runs():
    sizes = {"bandits": 8, "steps": 2, "loop-bandits": 1, "loop-steps": 2, "block": 8}
    assert bandits.main([text for name, size in sizes.items() for text in (f"--{name}", str(size))])["times_faster"] > 0


def test_bad_inputs():
    for key, value in {
        "arms": 0, "optimal": 32, "best": 1.2, "others": 0.9, "p_best": 1.0, "flip": -1, "wrong": 40, "group": 1,
        "minibatches": 5, "lr": 0.0, "policy": "tree", "reward": "none", "epochs": 0,
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=f"setting 'bandit': {key}="):
            Setting(**{key: value})
    with pytest.raises(ValueError, match="equal rewards nothing can be learned"):
        Setting(best=0.5, others=0.5)
    with pytest.raises(ValueError, match="seeds=0"):
        run("dgpo", seeds=0)
    with pytest.raises(ValueError, match="no setting given"):
        run("dgpo", [])
    with pytest.raises(ValueError, match="unknown metric"):
        run("dgpo", Setting(arms=4), seeds=2, steps=2).scores("nope")
    with pytest.raises(ValueError, match="no setting 'x'"):
        run("dgpo", Setting(arms=4), seeds=2, steps=2).pick("x")


def test_a_method_whose_weights_turn_nan_is_named():
    class Broken(Method):
        def weight(self, logp, old_logp, advantage, mask=None):
            return (logp - old_logp) / 0

    with pytest.raises(ValueError, match=r"Broken.*NaN"):
        run(["pg", Broken()], Setting(arms=4), seeds=2, steps=3)
