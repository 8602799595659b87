"""Softmax bandits under clipped off-policy updates: methods × settings × seeds in one batched tensor program.

    per step:  a ~ π_old, groups of rewards → advantages;  epochs × minibatches ascents on  mean A · w_log · log π(a)

which is the trainer's loop with one-token answers. All methods of a call see the same problems and the same random
numbers, so that differences between them are paired over seeds. Shapes: M methods, B = settings × seeds, K arms,
N = groups · group samples a step; logits `[M, B, K]`, float64 unless asked otherwise.
"""

import math
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pandas as pd
import torch

from analysis import policies
from analysis.landscape import key_of, resolve_all, trust_region_of
from dgpo.methods import REGIONS, regions
from dgpo.objective import group_advantages

METRICS = (
    *("regret", "cumulative_regret", "entropy", "p_best", "support"),
    *("ratio_spread", "w_max", "gradient", "gradient_variance"),
    *(f"share_{r}" for r in REGIONS),
)
_SHAPE = ("arms", "groups", "group", "epochs", "minibatches", "policy", "features", "hidden", "advantage", "reward")


@dataclass(frozen=True)
class Setting:
    """One bandit problem and how it is learned.

    arms, optimal      K, and how many of them have the mean reward `best`
    best, others       mean reward of an optimal arm; those of the rest are uniform on [0, others]
    p_best             starting probability of each optimal arm; None starts uniform
    reward             "bernoulli", or "graded": the mean plus Gaussian noise of standard deviation `noise`
    flip               share of rewards that come out wrong: r becomes 1 − r
    wrong              bad arms that the verifier pays like optimal ones (regret knows better)
    change_at          step from which the optimal arms are others; None never
    groups, group      samples a step, in groups whose rewards are compared; `advantage` as in dgpo.objective
    epochs, minibatches, lr    the updates on each step's samples; minibatch means, plain ascent
    policy             "tabular", "linear" or "mlp" (`features` per arm, `hidden` units)
    support            an arm counts as supported above this probability
    """

    name: str = "bandit"
    arms: int = 32
    optimal: int = 1
    best: float = 0.9
    others: float = 0.3
    p_best: float | None = None
    reward: str = "bernoulli"
    noise: float = 0.1
    flip: float = 0.0
    wrong: int = 0
    change_at: int | None = None
    groups: int = 2
    group: int = 8
    epochs: int = 1
    minibatches: int = 4
    lr: float = 1.0
    advantage: str = "grpo"
    policy: str = "tabular"
    features: int = 16
    hidden: int = 32
    support: float = 1e-3

    def __post_init__(self):
        samples = self.groups * self.group
        rules = (
            ("arms", self.arms >= 2, "an integer of at least 2"),
            (
                "optimal",
                1 <= self.optimal < max(self.arms, 2),
                "in 1..arms−1: with all arms equal nothing can be learned",
            ),
            ("best", 0 < self.best <= 1 or self.reward == "graded", "a probability"),
            ("others", 0 <= self.others < self.best, "in [0, best): with equal rewards nothing can be learned"),
            ("p_best", self.p_best is None or 0 < self.p_best * self.optimal < 1, "None, or in (0, 1/optimal)"),
            ("reward", self.reward in ("bernoulli", "graded"), "'bernoulli' or 'graded'"),
            ("noise", self.noise >= 0, "at least 0"),
            ("flip", 0 <= self.flip <= 1, "in [0, 1]"),
            ("wrong", 0 <= self.wrong <= self.arms - self.optimal, "at most the number of bad arms"),
            ("groups", self.groups >= 1, "at least 1"),
            ("group", self.group >= 2, "at least 2: one reward alone has no advantage"),
            ("epochs", self.epochs >= 1, "at least 1"),
            (
                "minibatches",
                1 <= self.minibatches <= samples and not samples % self.minibatches,
                "a divisor of groups·group",
            ),
            ("lr", 0 < self.lr < math.inf, "positive"),
            ("policy", self.policy in policies.POLICIES, f"one of {', '.join(policies.POLICIES)}"),
            ("features", self.features >= 1, "at least 1"),
            ("hidden", self.hidden >= 1, "at least 1"),
        )
        for key, fine, allowed in rules:
            if not fine:
                raise ValueError(f"setting {self.name!r}: {key}={getattr(self, key)!r} must be {allowed}")


@dataclass(frozen=True)
class Runs:
    """What a call recorded: `data[metric]` is `[methods, settings, seeds, points]`, at the steps `step`.

    regret             best mean − expected mean reward of the policy, before the step's updates
    cumulative_regret  its sum over all steps so far, this one included
    entropy, p_best, support   of the policy: in nats; mass on optimal arms; arms above `Setting.support`
    ratio_spread       standard deviation of log r over the step's updates; w_max: the largest |w_log|
    gradient           mean length of a minibatch gradient on the parameters; gradient_variance: the mean squared
                       distance, on the logits, of the minibatch gradients from their mean
    share_LN .. share_IN       shares of the tokens by region, over the step's updates
    """

    methods: tuple[str, ...]
    names: tuple[str, ...]
    settings: tuple[str, ...]
    step: np.ndarray
    data: dict[str, np.ndarray] = field(repr=False)

    def frame(self) -> pd.DataFrame:
        """Tidy: method, name, setting, seed, step and one column per metric."""
        shape = self.data["regret"].shape
        m, s, r, t = (i.ravel() for i in np.indices(shape))
        index = {
            "method": np.array(self.methods)[m],
            "name": np.array(self.names)[m],
            "setting": np.array(self.settings)[s],
            "seed": r,
            "step": self.step[t],
        }
        return pd.DataFrame(index | {k: v.ravel() for k, v in self.data.items()})

    def scores(self, metric: str = "cumulative_regret", method: int = 0, last: int = 1) -> np.ndarray:
        """`[seeds, settings]` of one method: the mean of the last recorded points. The contract of `analysis.stats`."""
        if metric not in self.data:
            raise ValueError(f"unknown metric {metric!r}; recorded: {', '.join(self.data)}")
        return self.data[metric][method, :, :, -last:].mean(-1).T


def variants(setting: Setting, **values) -> list[Setting]:
    """The setting with one field varied: `variants(s, lr=[0.5, 1])`, each named after its value."""
    ((key, options),) = values.items()
    return [replace(setting, name=f"{key}={v}", **{key: v}) for v in options]


def run(
    methods,
    settings=None,
    *,
    seeds: int = 20,
    steps: int = 300,
    points: int = 50,
    seed: int = 0,
    device: str = "cpu",
    dtype=torch.float64,
    block: int = 512,
) -> Runs:
    """Learn every setting with every method from `seeds` seeds; record at `points` evenly spaced steps.

    Settings that differ in numbers alone run as one tensor program; those that differ in shape (arms, samples, policy)
    one after the other. `block` bandits at a time, which keeps the logits in the cache: about 5·M·block·K numbers of
    memory, and the records. Raises ValueError for counts below 1, and for a method whose weights turn NaN.
    """
    chosen, settings = resolve_all(methods), _as_list(settings)
    for key, value in {"seeds": seeds, "steps": steps, "points": points, "block": block}.items():
        if value < 1:
            raise ValueError(f"{key}={value!r} must be at least 1")
    record = np.unique(np.linspace(0, steps - 1, min(points, steps)).round().astype(int))
    data = {k: np.full((len(chosen), len(settings), seeds, len(record)), np.nan) for k in METRICS}
    generator = torch.Generator(device).manual_seed(seed)
    for same in _by_shape(settings):
        rows = [(s, r) for s in same for r in range(seeds)]
        for i in range(0, len(rows), block):
            part = rows[i : i + block]
            found = _simulate(chosen, [settings[s] for s, _ in part], steps, record, generator, device, dtype)
            where = tuple(np.array(part).T)
            for k, values in found.items():
                data[k][:, where[0], where[1]] = values
    labels = tuple(s.name for s in settings)
    return Runs(tuple(map(key_of, chosen)), tuple(map(str, chosen)), labels, record + 1, data)


def _as_list(settings):
    settings = [Setting()] if settings is None else [settings] if isinstance(settings, Setting) else list(settings)
    if not settings:
        raise ValueError("no setting given")
    if len({s.name for s in settings}) < len(settings):
        raise ValueError(f"two settings have the same name: {', '.join(s.name for s in settings)}")
    return settings


def _by_shape(settings):
    groups = {}
    for i, s in enumerate(settings):
        groups.setdefault(tuple(getattr(s, f.name) for f in fields(s) if f.name in _SHAPE), []).append(i)
    return groups.values()


class _Problem:
    """B bandits as tensors: true and paid means `[B, K]`, which arms are optimal, before and after the change."""

    def __init__(self, settings, generator, device, dtype):
        def column(values):
            return torch.tensor(values, device=device, dtype=dtype)[:, None]

        bandits, arms, self.graded = len(settings), settings[0].arms, settings[0].reward == "graded"
        self.noise, self.flip, self.lr = (column([getattr(s, k) for s in settings]) for k in ("noise", "flip", "lr"))
        self.support = column([s.support for s in settings])
        self.change_at = column([math.inf if s.change_at is None else s.change_at for s in settings])
        self.best = column([s.best for s in settings])
        rank = torch.rand(bandits, arms, generator=generator, device=device, dtype=dtype).argsort(-1)
        low = torch.rand(bandits, arms, generator=generator, device=device, dtype=dtype)
        low *= column([s.others for s in settings])
        optimal = column([s.optimal for s in settings])
        self.phases = []
        for shift in (0, settings[0].arms // 2):  # the change moves the good arms half way round
            good = (rank + shift) % arms < optimal
            fooled = ~good & ((rank + shift) % arms < optimal + column([s.wrong for s in settings]))
            mean = torch.where(good, self.best, low)
            self.phases.append((good, mean, torch.where(good | fooled, self.best, mean)))
        share = column([s.optimal / s.arms if s.p_best is None else s.p_best * s.optimal for s in settings])
        good = self.phases[0][0]
        self.logits = torch.where(good, (share / optimal).log(), ((1 - share) / (arms - optimal)).log())

    def at(self, step):
        if not (self.change_at < math.inf).any():
            return self.phases[0]
        after = step >= self.change_at
        return tuple(torch.where(after, b, a) for a, b in zip(*self.phases, strict=True))

    def pay(self, mean, u, noise):
        reward = mean + self.noise * noise if self.graded else (u < mean).to(mean.dtype)
        return torch.where(noise.abs() < _two_sided(self.flip), 1 - reward, reward) if (self.flip > 0).any() else reward


def _two_sided(p):
    """|Gaussian| below this has probability p: the flip uses the noise that Bernoulli rewards leave unused."""
    return math.sqrt(2) * torch.erfinv(p)


@torch.no_grad()
def _simulate(methods, settings, steps, record, generator, device, dtype):
    problem, s, m = _Problem(settings, generator, device, dtype), settings[0], len(methods)
    bandits, samples = len(settings), s.groups * s.group
    policy = policies.make(s.policy, problem.logits.repeat(m, 1, 1), s.features, s.hidden, generator)
    fast = s.policy == "tabular"
    size = samples // s.minibatches
    wanted, cumulative, kept = set(record.tolist()), torch.zeros(m, bandits, device=device, dtype=dtype), []
    like = {"generator": generator, "device": device, "dtype": dtype}
    for step in range(steps):
        good, mean, paid = problem.at(step)
        log_p = policy.z - policy.z.logsumexp(-1, keepdim=True)
        p = log_p.exp()
        regret = problem.best[:, 0] - torch.einsum("mbk,bk->mb", p, mean)
        cumulative += regret
        log = _Log(p, log_p, good, problem.support, regret, cumulative) if step in wanted else None

        cdf = p.cumsum(-1)
        u = torch.rand(bandits, samples, **like) * cdf[..., -1:]  # so that an arm of probability 0 is never drawn
        arm = torch.searchsorted(cdf, u, right=True).clamp_(max=s.arms - 1)
        draw, noise = torch.rand(bandits, samples, **like), torch.randn(bandits, samples, **like)
        reward = problem.pay(paid.expand(m, -1, -1).gather(-1, arm), draw, noise)
        advantage = group_advantages(reward.view(-1, s.group), s.advantage).view(arm.shape)
        old = log_p.gather(-1, arm)
        for _ in range(s.epochs):
            for i in range(0, samples, size):
                part = slice(i, i + size)
                a, adv, before = arm[..., part], advantage[..., part], old[..., part]
                top = policy.z.amax(-1, keepdim=True)
                e = (policy.z - top).exp_()
                total = e.sum(-1, keepdim=True)
                logp = policy.z.gather(-1, a) - (top + total.log())
                w = _weights(methods, logp, before, adv)
                push = w * adv * (problem.lr / size)
                spread = push.sum(-1, keepdim=True) / total
                if fast:
                    policy.z.addcmul_(e, spread, value=-1).scatter_add_(-1, a, push)
                if log or not fast:
                    on_logits = (-spread * e).scatter_add_(-1, a, push)
                    if log:
                        log.update(methods, logp - before, adv, w, on_logits / problem.lr, policy)
                    if not fast:
                        policy.step(on_logits)
        if log:
            kept.append(log.close())
            if not torch.isfinite(policy.z).all():
                bad = int((~torch.isfinite(policy.z)).flatten(1).any(1).nonzero()[0])
                raise ValueError(f"{methods[bad]}: its weights made the logits NaN or infinite by step {step + 1}")
    return {k: torch.stack([row[k] for row in kept], -1).cpu().numpy() for k in METRICS}


def _weights(methods, logp, old_logp, advantage):
    """w_log `[M, B, n]`, each sample a sequence of one token."""
    out = torch.empty_like(logp)
    for i, method in enumerate(methods):
        args = (x[i].reshape(-1, 1) for x in (logp, old_logp, advantage))
        out[i] = method.weight(*args).view(logp.shape[1:])
    return out


class _Log:
    """The metrics of one recorded step, `[M, B]` each."""

    def __init__(self, p, log_p, good, support, regret, cumulative):
        self.row = {
            "regret": regret,
            "cumulative_regret": cumulative.clone(),
            "entropy": -(p * log_p.clamp(min=-1e4)).sum(-1),
            "p_best": (p * good).sum(-1),
            "support": (p > support).sum(-1).to(p.dtype),
        }
        self.log_r, self.w_max, self.norm, self.square, self.sum, self.shares = [], 0, 0, 0, 0, 0
        self.count = 0

    def update(self, methods, log_r, advantage, w, gradient, policy):
        code = torch.stack(
            [regions(x, a, *trust_region_of(m)).code for m, x, a in zip(methods, log_r, advantage, strict=True)]
        )
        self.shares = self.shares + torch.stack([(code == i).sum(-1) for i in range(len(REGIONS))])
        self.log_r.append(log_r)
        self.w_max = torch.maximum(w.abs().amax(-1), torch.as_tensor(self.w_max).to(w))
        self.norm = self.norm + policy.norm2(gradient).sqrt()
        self.square, self.sum = self.square + gradient.square().sum(-1), self.sum + gradient
        self.count += 1

    def close(self):
        log_r, mean = torch.cat(self.log_r, -1), self.sum / self.count
        return self.row | {
            "ratio_spread": log_r.std(-1, correction=0),
            "w_max": self.w_max,
            "gradient": self.norm / self.count,
            "gradient_variance": self.square / self.count - mean.square().sum(-1),
            **{f"share_{r}": self.shares[i] / log_r.shape[-1] for i, r in enumerate(REGIONS)},
        }
