"""Scores of judged completions: avg@k, pass@k, maj@k, two kinds of interval, paired differences.

Two intervals answer two questions. *Over samples*: would this policy score the same again on these very problems? The
problems are fixed, the completions vary. *Over problems*: would it score the same on other problems like these? The
problems are a sample too, and the interval is much wider. Neither covers the seed of training.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from dgpo.evaluation.heldout import pass_at_k
from dgpo.plain import changes
from dgpo.verifier import Verdict, notation

VERDICTS = tuple(str(v.value) for v in Verdict)


class Interval(NamedTuple):
    """An estimate and its bounds; the bounds are NaN where they cannot be estimated (a single problem)."""

    value: float
    low: float
    high: float


class Difference(NamedTuple):
    """a − b on the same problems: `samples` and `problems` are its intervals, `p_*` the two-sided p-values."""

    samples: Interval
    p_samples: float
    problems: Interval
    p_problems: float


@dataclass(frozen=True)
class Samples:
    """n judged completions of each of P problems of a benchmark; arrays are `[P, n]`.

    sha256     of the benchmark: only equal ones are compared
    verdicts   names of `dgpo.verifier.Verdict`
    answers    the content of the box, None if there was none
    sampling   the settings of the sampler: temperature, top_p, limit of tokens, dtype, rollout
    """

    benchmark: str
    sha256: str
    problems: tuple[str, ...]
    verdicts: np.ndarray
    answers: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray
    sampling: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return self.verdicts.shape[1]

    @property
    def right(self) -> np.ndarray:
        """Correct completions of each problem, `[P]`."""
        return (self.verdicts == Verdict.correct.value).sum(1)


def powers(n: int) -> list[int]:
    """1, 2, 4, ... and n."""
    return sorted({2**i for i in range(n.bit_length()) if 2**i <= n} | {n})


def pass_at(samples: Samples | Sequence[Samples], k: int, confidence: float = 0.95) -> tuple[Interval, Interval]:
    """pass@k (k = 1: avg@n) with its intervals over samples and over problems; of several benchmarks, of their mean.

    Over samples, of independent problems whose chances p differ:

        k = 1          normal, from the unbiased variance of each problem's share of right answers
        1 < k ≤ n/2    normal, from the variance of the estimate averaged over Beta(1 + c, 1 + n − c), what c right
                       answers of n say of p: at c = 0 the estimate itself would call it 0
        k > n/2        Wilson's for P trials: one disjoint draw a problem does not show its variance, and P trials of
                       equal chances vary at least as much as P trials of any chances with that mean (Hoeffding 1956)

    Over problems: Student's t. Where a variance comes out as 0 (every answer wrong, say) the interval is Wilson's for
    as many trials as there were, not a point; of several benchmarks, one without variance contributes what half of
    Wilson's width stands for.
    Raises ValueError for k > n.
    """
    group = [samples] if isinstance(samples, Samples) else list(samples)
    z, B = _quantile(confidence), len(group)
    values, within, between = [], [], []
    for one in group:
        scores, variance = _scores(one, k)
        P, mean = len(scores), float(scores.mean())
        values.append(mean)
        within.append((variance.sum() / P**2, P * (one.n // k)))
        between.append((np.var(scores, ddof=1) / P if P > 1 else np.nan, P))
    value = float(np.mean(values))
    if B == 1 and within[0][0] == 0:
        over_samples = _wilson(value, within[0][1], z)
    else:
        known = [v or _wilson_variance(m, trials, z) for m, (v, trials) in zip(values, within, strict=True)]
        over_samples = _bounded(value, z * sum(known) ** 0.5 / B)
    if any(np.isnan(v) for v, _ in between):
        return over_samples, Interval(value, np.nan, np.nan)
    if B == 1 and between[0][0] == 0:
        return over_samples, _wilson(value, between[0][1], z)
    known = np.array([v or _wilson_variance(m, P, z) for m, (v, P) in zip(values, between, strict=True)])
    freedom = known.sum() ** 2 / sum(v**2 / (P - 1) for v, (_, P) in zip(known, between, strict=True))  # Welch's
    return over_samples, _bounded(value, _quantile(confidence, freedom) * known.sum() ** 0.5 / B)


def pass_curve(samples: Samples | Sequence[Samples], ks: Sequence[int] | None = None) -> pd.DataFrame:
    """k, pass, samples_low, samples_high, problems_low, problems_high: a row for every k ≤ n, or for `ks`."""
    n = samples.n if isinstance(samples, Samples) else min(one.n for one in samples)
    rows = []
    for k in ks or range(1, n + 1):
        over_samples, over_problems = pass_at(samples, k)
        rows.append((k, over_samples.value, *over_samples[1:], *over_problems[1:]))
    return pd.DataFrame(rows, columns=["k", "pass", "samples_low", "samples_high", "problems_low", "problems_high"])


def majority_at(samples: Samples, ks: Sequence[int], draws: int = 200) -> dict[int, np.ndarray]:
    """maj@k of each problem, `{k: [P]}`: the chance that the most frequent of k answers is right, ties shared.

    Right answers are one candidate, wrong ones one for each way they are written (normalised); completions without an
    answer that could be read do not vote. Exact for k = n, else the mean over `draws` random subsets, always the same.
    """
    if bad := [k for k in ks if not 1 <= k <= samples.n]:
        raise ValueError(f"maj@k needs 1 ≤ k ≤ n, given k={bad[0]}, n={samples.n}")
    rng = np.random.default_rng(0)
    out = {k: np.zeros(len(samples.problems)) for k in ks}
    for p in np.flatnonzero(samples.right):
        ballots = _ballots(samples.verdicts[p], samples.answers[p])
        orders = rng.permuted(np.tile(np.arange(samples.n), (draws, 1)), axis=1)
        for k in ks:
            votes = ballots[orders[:, :k]].sum(1) if k < samples.n else ballots.sum(0)[None]
            top = votes == votes.max(1, keepdims=True)
            out[k][p] = np.mean(np.where(votes[:, 0] > 0, top[:, 0] / top.sum(1), 0.0))
    return out


def per_problem(samples: Samples, ks: Sequence[int] | None = None) -> pd.DataFrame:
    """A row for each problem: right, avg, pass@k and maj@k for `ks` (powers of two), length, truncated, verdicts."""
    ks = list(ks or powers(samples.n))
    majority = majority_at(samples, ks)
    columns = {"problem": samples.problems, "right": samples.right, "avg": samples.right / samples.n}
    columns |= {f"pass@{k}": pass_at_k(samples.right, samples.n, k) for k in ks}
    columns |= {f"maj@{k}": majority[k] for k in ks}
    columns |= {"length": samples.lengths.mean(1), "truncated": 1 - samples.finished.mean(1)}
    return pd.DataFrame(columns | {v: (samples.verdicts == v).mean(1) for v in VERDICTS})


def summary(samples: Samples, ks: Sequence[int] | None = None) -> dict:
    """Of one benchmark: avg@n with both intervals, pass@k likewise and maj@k for `ks`, length, truncation, verdicts.

    Raises ValueError for a k beyond n.
    """
    ks = list(ks or powers(samples.n))
    majority = majority_at(samples, ks)
    row = {"benchmark": samples.benchmark, "problems": len(samples.problems), "n": samples.n}
    row |= _columns(f"avg@{samples.n}", *pass_at(samples, 1))
    for k in ks:
        row |= _columns(f"pass@{k}", *pass_at(samples, k))
    row |= {f"maj@{k}": float(majority[k].mean()) for k in ks}
    row |= {"length": float(samples.lengths.mean()), "truncated": float(1 - samples.finished.mean())}
    return row | {f"verdict/{v}": float((samples.verdicts == v).mean()) for v in VERDICTS}


def compare(a: Samples, b: Samples, k: int = 1, draws: int = 10_000, confidence: float = 0.95) -> Difference:
    """pass@k (k = 1: avg) of `a` minus that of `b`, problem by problem.

    p over samples: the labels a and b of a problem's completions are exchanged within that problem. p over problems:
    the signs of the problems' differences are. A variance of 0 is replaced as in `pass_at`.
    Raises ValueError for other problems, another revision of the benchmark, and k > n.
    """
    if (a.benchmark, a.sha256, a.problems) != (b.benchmark, b.sha256, b.problems):
        raise ValueError(
            f"not the same problems: {a.benchmark} ({a.sha256[:12]}, {len(a.problems)} problems) "
            f"and {b.benchmark} ({b.sha256[:12]}, {len(b.problems)} problems)"
        )
    rng = np.random.default_rng(0)
    (first, variance), (second, other) = _scores(a, k), _scores(b, k)
    d, P = first - second, len(first)
    z, value = _quantile(confidence), float(d.mean())
    within = [
        v.sum() / P**2 or _wilson_variance(scores.mean(), P * (one.n // k), z)
        for scores, v, one in ((first, variance, a), (second, other, b))
    ]
    half = z * sum(within) ** 0.5
    samples = Interval(value, value - half, value + half)
    between = np.var(d, ddof=1) / P or _wilson_variance(abs(value), P, z) if P > 1 else np.nan
    spread = _quantile(confidence, P - 1) * between**0.5 if P > 1 else np.nan
    problems = Interval(value, float(value - spread), float(value + spread))
    tables = [pass_at_k(np.arange(s.n + 1), s.n, k) for s in (a, b)]
    total = a.right + b.right
    moved, flipped = 0, 0
    for _ in range(0, draws, 500):  # in blocks, to bound the memory
        taken = rng.hypergeometric(total, a.n + b.n - total, a.n, size=(500, P))
        moved += int((np.abs((tables[0][taken] - tables[1][total - taken]).mean(1)) >= abs(value) - 1e-12).sum())
        signs = rng.integers(0, 2, size=(500, P)) * 2 - 1
        flipped += int((np.abs((signs * d).mean(1)) >= abs(value) - 1e-12).sum())
    made = 500 * -(-draws // 500)
    return Difference(samples, (moved + 1) / (made + 1), problems, (flipped + 1) / (made + 1))


def unlike(a: Samples, b: Samples) -> str:
    """The sampling settings in which two evaluations differ, as `name: a → b`; empty if there are none."""
    return "; ".join(changes({name: v for name, v in a.sampling.items() if name in b.sampling}, b.sampling))


def _scores(samples: Samples, k: int) -> tuple[np.ndarray, np.ndarray]:
    """pass@k of each problem and its variance over samples, `[P]`; 0 where that cannot be estimated, see `pass_at`."""
    n, c = samples.n, np.arange(samples.n + 1)
    table = pass_at_k(c, n, k)
    if k == 1:
        variance = c * (n - c) / (n**2 * max(1, n - 1))
    elif 2 * k > n:
        variance = np.zeros(n + 1)
    else:
        a, b = c + 1, n - c + 1
        again = stats.betabinom.pmf(c, n, a[:, None], b[:, None])  # of the c in n further samples
        miss, twice = (np.exp(special.betaln(a, b + j) - special.betaln(a, b)) for j in (k, 2 * k))
        variance = again @ table**2 - (1 - 2 * miss + twice)  # E[x²] − E[(1 − (1 − p)^k)²]
    return table[samples.right], variance[samples.right]


def _bounded(value: float, half: float) -> Interval:
    return Interval(value, max(0.0, value - half), min(1.0, value + half))


def _quantile(confidence: float, freedom: float = np.inf) -> float:
    """Standard deviations to either side that hold `confidence` of Student's t, of the normal without `freedom`."""
    tail = 0.5 + confidence / 2
    return float(stats.norm.ppf(tail) if np.isinf(freedom) else stats.t.ppf(tail, freedom))


def _wilson(value: float, trials: int, z: float) -> Interval:
    centre, scale = value + z**2 / (2 * trials), 1 + z**2 / trials
    half = z * (value * (1 - value) / trials + z**2 / (4 * trials**2)) ** 0.5
    low, high = (centre - half) / scale, (centre + half) / scale
    return Interval(value, max(0.0, low) if value > 0 else 0.0, min(1.0, high) if value < 1 else 1.0)


def _wilson_variance(value: float, trials: int, z: float) -> float:
    _, low, high = _wilson(value, trials, z)
    return ((high - low) / 2 / z) ** 2


def _ballots(verdicts, answers) -> np.ndarray:
    """One-hot votes `[n, candidates]`; candidate 0 is the right answer, a row of zeros an abstention."""
    names = {"": 0}
    votes = []
    for verdict, answer in zip(verdicts, answers, strict=True):
        if verdict == Verdict.correct.value:
            votes.append(0)
        elif verdict == Verdict.wrong.value and answer:
            votes.append(names.setdefault(notation.normalise(answer), len(names)))
        else:
            votes.append(-1)
    ballots = np.zeros((len(votes), len(names)))
    cast = [i for i, v in enumerate(votes) if v >= 0]
    ballots[cast, [votes[i] for i in cast]] = 1
    return ballots


def _columns(name: str, samples: Interval, problems: Interval) -> dict[str, float]:
    return {
        name: samples.value,
        f"{name}_samples_low": samples.low,
        f"{name}_samples_high": samples.high,
        f"{name}_problems_low": problems.low,
        f"{name}_problems_high": problems.high,
    }
