"""Bandit problems: what each arm pays, and how a setting becomes tensors for many bandits at once.

Shapes: B bandits, K arms, N samples a step; M methods, which see the same problems and random numbers.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from analysis import policies
from dgpo.objective import group_advantages

_SHAPE = ("arms", "groups", "group", "epochs", "minibatches", "policy", "features", "hidden", "advantage", "reward")
_CHUNK = 64  # steps whose random numbers are drawn at once


@dataclass(frozen=True)
class Setting:
    """A bandit problem and how it is learned.

    arms, optimal      K, and how many of them have the mean reward `best`
    best, others       mean reward of an optimal arm; the other means are uniform on [0, others]
    p_best             starting probability of each optimal arm; None starts uniform
    reward             "bernoulli", or "graded": the mean plus Gaussian noise of standard deviation `noise`
    flip               share of wrong rewards: r becomes 1 − r
    wrong              bad arms that the verifier pays like optimal ones (regret knows better)
    change_at          step at which the optimal arms change; None for never
    groups, group      samples a step are groups × group; rewards are compared within a group, `advantage` as in
    dgpo.objective
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


def variants(setting: Setting, **values) -> list[Setting]:
    """The setting with one field varied, `variants(s, lr=[0.5, 1])`; each is named after its value."""
    ((key, options),) = values.items()
    return [replace(setting, name=f"{key}={v}", **{key: v}) for v in options]


def as_list(settings) -> list[Setting]:
    """One setting, several or None (the default) as a list; ValueError for an empty list or a repeated name."""
    settings = [Setting()] if settings is None else [settings] if isinstance(settings, Setting) else list(settings)
    if not settings:
        raise ValueError("no setting given")
    if len({s.name for s in settings}) < len(settings):
        raise ValueError(f"two settings have the same name: {', '.join(s.name for s in settings)}")
    return settings


def by_shape(settings):
    """Groups of indices whose settings differ only in numbers, so that each group fits into one tensor."""
    groups = {}
    for i, s in enumerate(settings):
        groups.setdefault(tuple(getattr(s, f.name) for f in fields(s) if f.name in _SHAPE), []).append(i)
    return groups.values()


class Draws:
    """The random numbers of B bandits, a stream for each seed: a bandit's numbers depend on nothing that runs beside
    it.

    numbers    the seed of each bandit, `[B]`; bandits with one seed share their numbers, and so are paired
    seed       the seed of the whole call
    """

    def __init__(self, numbers: Sequence[int], seed: int, device, dtype):
        own = sorted({*numbers})
        self.row = torch.tensor([own.index(n) for n in numbers], device=device)
        self.like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.generators = [torch.Generator(device).manual_seed((seed << 20) + n) for n in own]

    def rand(self, *shape: int) -> torch.Tensor:
        """Uniform numbers `[B, *shape]`."""
        return self._each(torch.rand, shape)[self.row]

    def randn(self, *shape: int) -> torch.Tensor:
        """Normal numbers `[B, *shape]`."""
        return self._each(torch.randn, shape)[self.row]

    def steps(self, count: int, samples: int, normal: bool) -> Iterator[tuple[torch.Tensor, ...]]:
        """For each step, the numbers that choose the arms, the rewards and the flips, `[B, samples]` each.

        All are uniform, except those of the rewards if `normal`. Every step has all three, used or not.
        """
        for start in range(0, count, _CHUNK):
            size = min(_CHUNK, count - start)
            uniform = self._each(torch.rand, (size, 3, samples))
            noise = self._each(torch.randn, (size, samples)) if normal else uniform[:, :, 1]
            for t in range(size):
                yield uniform[:, t, 0][self.row], noise[:, t][self.row], uniform[:, t, 2][self.row]

    def _each(self, draw, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.stack([draw(*shape, generator=own, **self.like) for own in self.generators])


class Problem:
    """B bandits as tensors: true and paid means `[B, K]` and the optimal arms, before and after the change."""

    def __init__(self, settings, draws: Draws, device, dtype):
        def column(values):
            return torch.tensor(values, device=device, dtype=dtype)[:, None]

        self.noise, self.flip, self.lr = (column([getattr(s, k) for s in settings]) for k in ("noise", "flip", "lr"))
        self.support = column([s.support for s in settings])
        self.change_at = column([math.inf if s.change_at is None else s.change_at for s in settings])
        self.best = column([s.best for s in settings])
        arms, self.graded = settings[0].arms, settings[0].reward == "graded"
        order, low = draws.rand(2, arms).unbind(1)
        rank = order.argsort(-1)
        low = low * column([s.others for s in settings])
        optimal = column([s.optimal for s in settings])
        self.phases = []
        for shift in (0, settings[0].arms // 2):  # the change moves the good arms by half of the arms
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

    def pay(self, mean, noise, flip):
        """Rewards of arms with paid means `[M, B, N]`, from the numbers `[B, N]` of a step (`Draws.steps`)."""
        reward = mean + self.noise * noise if self.graded else (noise < mean).to(mean.dtype)
        return torch.where(flip < self.flip, 1 - reward, reward) if (self.flip > 0).any() else reward


class Advantages:
    """`dgpo.objective.group_advantages` of rewards `[M, B, N]`; rewards of 0 and 1 are looked up by the group's sum."""

    def __init__(self, setting, like):
        self.group, self.kind, self.table = setting.group, setting.advantage, None
        if setting.reward == "bernoulli":
            ones = torch.arange(setting.group + 1, device=like.device)[:, None]
            rewards = (torch.arange(setting.group, device=like.device) < ones).to(like.dtype)
            found = group_advantages(rewards, self.kind)  # row s: a group with sum s, ones first
            self.table = torch.stack([found[:, -1], found[:, 0]], 1).flatten()

    def __call__(self, reward):
        groups = reward.view(-1, self.group)
        if self.table is None:
            return group_advantages(groups, self.kind).view(reward.shape)
        return self.table.take((2 * groups.sum(1, keepdim=True) + groups).long()).view(reward.shape)
