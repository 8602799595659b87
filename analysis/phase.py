"""Which method's gradient is closest to the true one, by distance from π_old and samples in a batch.

    family = Family(policies=400, tokens=64, shift="advantage", advantages="group")
    made = diagram(family, ("grpo", "gppo", "dgpo"), distances, samples)
    made.winner, made.regret("grpo")

A distance is KL(π_old ‖ π) in nats: each policy of a family moves along its own direction until it is that far. An
error is the median over the family of bias² + variance / samples, relative to the squared true gradient.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax

from analysis.estimator import Moments, exact
from analysis.landscape import key_of, resolve_all
from dgpo import methods

SHAPES = ("spread", "peaked", "zipf")
SHIFTS = ("advantage", "random", "updates")
ADVANTAGES = ("bounded", "group")
LADDER = (0.5, 1.0, 2.0, 4.0, np.inf)  # values of n and m for `best_dgpo`


@dataclass(frozen=True)
class Family:
    """P random policies over K tokens, their advantages, and the direction in which each moves.

    shape        of π_old: "spread" logits ~ N(0, 2²), "peaked" N(0, 4²), "zipf" −1.5 · log rank
    advantages   one good token of success 0.9 among tokens of success 0 to 0.3: "bounded" are success − mean, "group"
                 divides by the standard deviation of a 0/1 reward, as GRPO does in a large group
    shift        "advantage": good tokens up, bad ones down, each by a random amount; "random": all tokens by N(0, 1);
                 "updates": along the true gradient, which real updates follow
    """

    policies: int = 400
    tokens: int = 64
    shape: str = "spread"
    shift: str = "advantage"
    advantages: str = "group"
    seed: int = 0

    def __post_init__(self):
        for name, known in (("shape", SHAPES), ("shift", SHIFTS), ("advantages", ADVANTAGES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")

    @cached_property
    def _drawn(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng, size = np.random.default_rng(self.seed), (self.policies, self.tokens)
        if self.shape == "zipf":
            logits = -1.5 * np.log(rng.permuted(np.tile(np.arange(1.0, self.tokens + 1), (self.policies, 1)), axis=1))
        else:
            logits = rng.normal(size=size) * (2 if self.shape == "spread" else 4)
        success = 0.3 * rng.random(size)
        success[np.arange(self.policies), rng.integers(self.tokens, size=self.policies)] = 0.9
        pi = softmax(logits, 1)
        mean = (pi * success).sum(1, keepdims=True)
        advantage = success - mean
        if self.advantages == "group":
            advantage /= np.sqrt((pi * advantage**2).sum(1, keepdims=True))
        match self.shift:
            case "random":
                direction = rng.normal(size=size)
            case "advantage":
                direction = np.sign(advantage) * rng.random(size)
            case _:
                direction = pi * advantage
        return logits, advantage, direction

    @property
    def logits(self) -> np.ndarray:
        return self._drawn[0]

    @property
    def advantage(self) -> np.ndarray:
        return self._drawn[1]

    @property
    def pi_old(self) -> np.ndarray:
        return softmax(self.logits, 1)

    def distance(self, logits: np.ndarray) -> np.ndarray:
        """KL(π_old ‖ softmax(logits)) of each policy, in nats."""
        return (self.pi_old * (log_softmax(self.logits, 1) - log_softmax(logits, 1))).sum(1)

    def moved(self, distance: float) -> np.ndarray:
        """The logits of the policies at a distance, by bisection along their directions."""
        direction = self._drawn[2]
        high = np.full((self.policies, 1), 1e-3 / np.abs(direction).max())
        while (short := self.distance(self.logits + high * direction) < distance).any():
            high[short] *= 2
        low = np.zeros_like(high)
        for _ in range(60):
            middle = (low + high) / 2
            beyond = (self.distance(self.logits + middle * direction) >= distance)[:, None]
            low, high = np.where(beyond, low, middle), np.where(beyond, middle, high)
        return self.logits + high * direction


@dataclass(frozen=True)
class Diagram:
    """error `[M, D, N]` of M methods at D distances and N batch sizes."""

    names: tuple[str, ...]
    distances: np.ndarray
    samples: np.ndarray
    error: np.ndarray

    @property
    def winner(self) -> np.ndarray:
        """The name of the method with the least error, `[D, N]`."""
        return np.array(self.names)[self.error.argmin(0)]

    def regret(self, name: str) -> np.ndarray:
        """The method's error as a multiple of the least error, `[D, N]`."""
        return self.error[self.names.index(name)] / self.error.min(0)


def diagram(family: Family, chosen: Iterable, distances: Sequence[float], samples: Sequence[int]) -> Diagram:
    """The errors of methods (keys or Methods) over a family."""
    made = resolve_all(chosen)
    keys = [key_of(m) for m in made]
    names = tuple(k if keys.count(k) == 1 else str(m) for k, m in zip(keys, made, strict=True))
    counts = np.asarray(samples, float)
    error = np.empty((len(made), len(distances), len(counts)))
    for j, distance in enumerate(distances):
        logits = family.moved(distance)
        for i, method in enumerate(made):
            error[i, j] = median_error(exact(method, family.logits, logits, family.advantage), counts)
    return Diagram(names, np.asarray(distances, float), counts, error)


def median_error(moments: Moments, samples: np.ndarray) -> np.ndarray:
    """The median over policies of the relative mean squared error, `[N]`."""
    return np.nanmedian(moments.mse(samples[:, None]), axis=1)


def best_dgpo(family: Family, distances: Sequence[float], samples: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """The least error `[D, N]` of DGPO over the LADDER of n and m, and its (n, m), `[D, N, 2]`."""
    pairs = [(n, m) for n in LADDER for m in LADDER if m >= 1]
    made = diagram(family, [methods.get("dgpo", n=n, m=m) for n, m in pairs], distances, samples)
    return made.error.min(0), np.array(pairs)[made.error.argmin(0)]


def distances_of(run) -> pd.Series:
    """KL(π_old ‖ π) in nats that the updates of a Run reached, by step: the mean of r − 1 − log r.

    The mean is over the step's token records, each weighed by 1 / the probability that it was kept.
    """
    tokens = run.tokens()
    each = (tokens["ratio"] - 1 - np.log(tokens["ratio"])) / tokens["sampled"]
    return each.groupby(tokens["step"]).sum() / (1 / tokens["sampled"]).groupby(tokens["step"]).sum()
