"""Honest comparisons from few runs: means, interquartile means and paired differences with bootstrap intervals.

Everywhere `scores` is `[runs, tasks]`, float; a run is a seed, and equal rows of two methods have the same seed.
Resampling is over runs (rows), so that the tasks of a run stay together. Randomness comes from the given `rng`.
Sources: rliable (arXiv 2108.13264) for the interquartile mean and the probability of improvement; scipy.stats.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats


@dataclass(frozen=True)
class Estimate:
    """A number with its interval: `low` and `high` bound it at the requested confidence."""

    value: float
    low: float
    high: float

    def __str__(self):
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def mean(scores, rng, confidence: float = 0.95, resamples: int = 2000) -> Estimate:
    """Mean over runs and tasks. Raises ValueError for scores that are not a finite [runs, tasks] of 2 runs or more."""
    return _bootstrap(_mean, (_check(scores),), rng, confidence, resamples)


def iqm(scores, rng, confidence: float = 0.95, resamples: int = 2000) -> Estimate:
    """Interquartile mean: the mean of the middle half of all runs × tasks, which a few outliers cannot move."""
    return _bootstrap(_iqm, (_check(scores),), rng, confidence, resamples)


def paired_difference(a, b, rng, confidence: float = 0.95, resamples: int = 2000) -> Estimate:
    """Mean of a − b; rows of both are resampled together, which removes what the seeds share."""
    a, b = _pair(a, b)
    return _bootstrap(_mean, (a - b,), rng, confidence, resamples)


def paired_t(a, b, confidence: float = 0.95) -> Estimate:
    """Mean of a − b with Student's interval over runs: mean ± t · s/√runs, where a run is the mean of its tasks.

    For few runs: bootstrap percentiles of five differences cover 84 % instead of the requested 95 %.
    """
    a, b = _pair(a, b)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie in (0, 1)")
    differences = (a - b).mean(1)
    half = scipy_stats.t.ppf((1 + confidence) / 2, len(a) - 1) * scipy_stats.sem(differences)
    return Estimate(float(differences.mean()), float(differences.mean() - half), float(differences.mean() + half))


def probability_of_improvement(a, b, rng, confidence: float = 0.95, resamples: int = 2000) -> Estimate:
    """P(a run of `a` scores above the same run of `b`) on a random task, ties counted half; rows resampled together.

    A run is compared with its partner, which has the same seed. rliable's definition, for runs without partners,
    compares it with all runs: `unpaired_improvement`.
    """
    a, b = _pair(a, b)
    return _bootstrap(_mean, ((a > b) + 0.5 * (a == b),), rng, confidence, resamples)


def unpaired_improvement(a, b, rng, confidence: float = 0.95, resamples: int = 2000) -> Estimate:
    """P(any run of `a` scores above any run of `b`) on a random task, ties counted half, as rliable defines it.

    The mean over tasks of Mann and Whitney's U / (runs of a · runs of b); runs of a and of b are resampled apart.
    Source: arXiv 2108.13264, section 4.3.
    """
    a, b = _check(a, "the first scores"), _check(b, "the second scores")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a and b must have the same tasks, and have {a.shape[1]} and {b.shape[1]}")

    def share(x, y):
        return float(((x[:, None] > y) + 0.5 * (x[:, None] == y)).mean())

    drawn = [share(rng.choice(a, len(a)), rng.choice(b, len(b))) for _ in range(resamples)]
    low, high = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(share(a, b), float(low), float(high))


def summary(scores: dict, rng, reference: str | None = None, confidence: float = 0.95) -> pd.DataFrame:
    """A row for each method of `{method: [runs, tasks]}`: mean, IQM, and paired differences to `reference`, with
    intervals.

    Columns: mean, mean_low, mean_high, iqm, iqm_low, iqm_high, runs; with a reference also difference, its interval and
    p_improve (the probability of scoring above the reference).
    """
    if reference is not None and reference not in scores:
        raise ValueError(f"reference {reference!r} is not among the methods: {', '.join(scores)}")
    rows = {}
    for key, values in scores.items():
        row = {"runs": len(np.atleast_2d(values))}
        row |= _columns("mean", mean(values, rng, confidence)) | _columns("iqm", iqm(values, rng, confidence))
        if reference is not None and key != reference:
            base = scores[reference]
            row |= _columns("difference", paired_difference(values, base, rng, confidence))
            row |= _columns("p_improve", probability_of_improvement(values, base, rng, confidence))
        rows[key] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def curve(values, rng, confidence: float = 0.95, resamples: int = 1000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and percentile bootstrap bounds over runs at every point of `values` `[runs, points]`: three `[points]`."""
    values = _check(values, "values", "[runs, points]")
    pick = rng.integers(len(values), size=(resamples, len(values)))
    counts = np.stack([np.bincount(p, minlength=len(values)) for p in pick]) / len(values)
    tail = (1 - confidence) / 2
    low, high = np.quantile(counts @ values, [tail, 1 - tail], axis=0)
    return values.mean(0), low, high


def _columns(name, estimate):
    return {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}


def _mean(x, axis):
    return x.mean(axis=(axis, -1)) if axis == 0 else x.mean(axis=(-2, -1))


def _iqm(x, axis):
    flat = x.reshape(-1) if axis == 0 else x.reshape(*x.shape[:-2], -1)
    return scipy_stats.trim_mean(flat, 0.25, axis=-1)


def _bootstrap(statistic, data, rng, confidence, resamples) -> Estimate:
    if not isinstance(rng, np.random.Generator):
        raise TypeError(f"rng is {rng!r}; pass a numpy.random.Generator, for example numpy.random.default_rng(0)")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r} must lie in (0, 1)")
    (scores,) = data
    value = float(statistic(scores, 0))
    if (scores == scores[0]).all():  # all runs agree: nothing to resample
        return Estimate(value, value, value)
    rows = np.arange(len(scores))

    def of_rows(pick, axis=-1):
        pick = np.moveaxis(np.asarray(pick), axis, -1)
        return statistic(scores[pick], -2) if pick.ndim > 1 else statistic(scores[pick], 0)

    # Percentiles, not BCa: BCa's jackknife is undefined where a statistic such as a proportion does not vary.
    found = scipy_stats.bootstrap(
        (rows,),
        of_rows,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        rng=rng,
        batch=max(1, 2_000_000 // scores.size),
    )
    return Estimate(value, float(found.confidence_interval.low), float(found.confidence_interval.high))


def _check(scores, name="scores", shape="[runs, tasks]"):
    scores = np.asarray(scores, float)
    if scores.ndim != 2 or len(scores) < 2 or scores.shape[1] < 1:
        raise ValueError(f"{name} have shape {scores.shape}; expected {shape} with at least 2 runs")
    if not np.isfinite(scores).all():
        run, task = np.argwhere(~np.isfinite(scores))[0]
        raise ValueError(f"{name} of run {run}, column {task} is {scores[run, task]}")
    return scores


def _pair(a, b):
    a, b = _check(a, "the first scores"), _check(b, "the second scores")
    if a.shape != b.shape:
        raise ValueError(f"scores are paired over runs and tasks, but have shapes {a.shape} and {b.shape}")
    return a, b
