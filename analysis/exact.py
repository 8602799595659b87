"""Tests and intervals that hold for few runs, whatever the distribution: sign flips, Fisher, Clopper and Pearson, Holm.

A run of reinforcement learning works or collapses. Student's t covers such outcomes far less often than it claims
(with five seeds and a collapse probability of 0.1, less than 75 % instead of 95 %). So our pages ask two questions
instead: how often does a method collapse (a proportion), and how do the runs that did not collapse compare?
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from analysis.stats import Estimate

_ENUMERATED = 16  # differences; up to here all sign flips are tried


def sign_flip(differences) -> float:
    """Two-sided p of "paired differences `[n]` are symmetric about 0": the share of sign flips with a mean as far
    from 0.

    Exact up to 16 differences, where the smallest p is 2/2^n; beyond that, 100,000 flips from a fixed seed, which
    include the given signs. 1 if all differences are 0. Raises ValueError for fewer than two differences.
    """
    d = np.asarray(differences, float)
    if d.ndim != 1 or len(d) < 2 or not np.isfinite(d).all():
        raise ValueError(f"differences have shape {d.shape}; expected at least two finite numbers")
    signs = _signs(len(d)) if len(d) <= _ENUMERATED else _sampled_signs(len(d))
    parts = np.array_split(signs, 1 + signs.size // 2_000_000)  # kept in a small type, made floats part by part
    means = np.abs(np.concatenate([part @ d for part in parts]))
    return float((means >= np.abs(d.sum()) * (1 - 1e-12) - 1e-15).mean())


@functools.lru_cache(maxsize=_ENUMERATED)
def _signs(n: int) -> np.ndarray:
    return np.array([*itertools.product((1.0, -1.0), repeat=n)])


@functools.lru_cache(maxsize=2)
def _sampled_signs(n: int) -> np.ndarray:
    signs = np.random.default_rng(0).choice(np.array([1, -1], np.int8), size=(100_000, n))
    signs[0] = 1
    return signs


def sign_flip_interval(differences, confidence: float = 0.95) -> Estimate:
    """Mean of the differences, and the shifts δ for which `sign_flip(differences − δ)` is above 1 − confidence.

    Unbounded where so few differences can reject no shift: 2/2^n above 1 − confidence.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie in (0, 1)")
    d = np.asarray(differences, float)
    sign_flip(d)  # this checks them
    centre = float(d.mean())
    low, high = -_end(-d, confidence), _end(d, confidence)
    return Estimate(centre, min(low, centre), max(high, centre))  # of equal differences the mean rounds past either


def _end(d: np.ndarray, confidence: float) -> float:
    """The upper end of the interval, by bisection between the mean and the largest difference."""
    low, high = float(d.mean()), float(d.max())
    beyond = high + max(1e-9, np.ptp(d))
    if sign_flip(d - beyond) > 1 - confidence:
        return np.inf
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if sign_flip(d - middle) > 1 - confidence else (low, middle)
    return high


def proportion(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """successes / n with the interval of Clopper and Pearson, which covers at least as often as it claims."""
    found: Any = scipy_stats.binomtest(successes, n).proportion_ci(confidence, method="exact")
    return Estimate(successes / n, found.low, found.high)


def fisher(a: int, of_a: int, b: int, of_b: int) -> float:
    """Two-sided p of "a out of of_a and b out of of_b have the same probability": Fisher's exact test."""
    found: Any = scipy_stats.fisher_exact([[a, of_a - a], [b, of_b - b]])
    return float(found.pvalue)


def holm(ps: Mapping[Any, float]) -> dict[Any, float]:
    """The p of each comparison, adjusted by Holm: a page that claims those below α makes any false claim with
    probability at most α."""
    adjusted: dict[Any, float] = {}
    largest = 0.0
    for rank, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        largest = max(largest, min(1.0, (len(ps) - rank) * p))
        adjusted[name] = largest
    return {name: adjusted[name] for name in ps}


def paired(differences) -> dict[str, float]:
    """The row of a comparison: difference, low and high (95 %, by sign flips) and p; empty for fewer than two."""
    if len(differences) < 2:
        return {}
    found = sign_flip_interval(differences)
    return {"difference": found.value, "low": found.low, "high": found.high, "p": sign_flip(differences)}


def adjust(table: pd.DataFrame, columns: Sequence[str] = ("p",)) -> pd.DataFrame:
    """`table` with p_holm for each p of `columns`, adjusted for all of them together; missing ones stay missing."""
    there = [name for name in columns if name in table]
    ps = {(name, i): p for name in there for i, p in enumerate(table[name]) if not np.isnan(p)}
    adjusted = holm(ps)
    return table.assign(
        **{f"{name}_holm": [adjusted.get((name, i), np.nan) for i in range(len(table))] for name in there}
    )
