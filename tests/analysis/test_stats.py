"""analysis.stats: contracts, coverage of the intervals, pairing."""

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from analysis import stats


def scores(seed=0, runs=20, tasks=3, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (runs, tasks))


def test_estimates_contain_themselves_and_are_reproducible():
    for f in (stats.mean, stats.iqm):
        a, b = (f(scores(), np.random.default_rng(1)) for _ in range(2))
        assert a == b
        assert a.low < a.value < a.high
    assert stats.mean(scores(), np.random.default_rng(1)).value == pytest.approx(scores().mean())


def test_iqm_ignores_an_odd_seed():
    x = scores()
    y = x.copy()
    y[0] = 1e6
    rng = np.random.default_rng(0)
    assert abs(stats.iqm(x, rng).value - stats.iqm(y, rng).value) < 0.5


def test_pairing_removes_what_the_seeds_share():
    x = scores()
    y = x + 0.1 + 0.01 * scores(1)
    rng = np.random.default_rng(0)
    d = stats.paired_difference(y, x, rng)
    assert 0 < d.low < 0.1 < d.high or abs(d.value - 0.1) < 0.01
    assert d.high - d.low < 0.05 * (stats.mean(x, rng).high - stats.mean(x, rng).low)
    assert stats.probability_of_improvement(y, x, rng).value == 1
    assert stats.probability_of_improvement(x, x, rng) == stats.Estimate(0.5, 0.5, 0.5)


def test_improvement_of_runs_without_partners_is_that_of_mann_and_whitney():
    a, b = np.array([[1.0], [4.0], [6.0]]), np.array([[0.0], [4.0]])
    rng = np.random.default_rng(0)
    found = stats.unpaired_improvement(a, b, rng)
    u = mannwhitneyu(a[:, 0], b[:, 0]).statistic
    assert found.value == pytest.approx(u / 6)
    assert 0 <= found.low <= found.value <= found.high <= 1
    with pytest.raises(ValueError, match="same tasks, and have 1 and 2"):
        stats.unpaired_improvement(a, np.zeros((2, 2)), rng)


def test_intervals_cover_about_as_often_as_they_say():
    rng = np.random.default_rng(0)
    hits = [
        abs((e := stats.mean(scores(s), rng, resamples=300)).value) <= max(e.high - e.value, e.value - e.low)
        for s in range(150)
    ]
    assert 0.86 <= np.mean(hits) <= 0.99


def test_runs_are_resampled_whole():
    same = np.repeat(scores(tasks=1), 50, axis=1)  # 50 copies of one task say no more than one
    rng = np.random.default_rng(0)
    one, many = stats.mean(same[:, :1], rng), stats.mean(same, rng)
    assert (many.high - many.low) > 0.8 * (one.high - one.low)


def test_summary_and_curve():
    table = stats.summary({"a": scores(), "b": scores(1, shift=3)}, np.random.default_rng(0), reference="a")
    assert table.loc["b", "difference_low"] > 0
    assert np.isnan(table.loc["a", "difference"])
    mean, low, high = stats.curve(scores(tasks=7), np.random.default_rng(0))
    assert mean.shape == (7,)
    assert (low <= mean).all()
    assert (mean <= high).all()


def test_bad_inputs():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"shape \(5,\); expected \[runs, tasks\]"):
        stats.mean(np.ones(5), rng)
    with pytest.raises(ValueError, match="at least 2 runs"):
        stats.mean(np.ones((1, 3)), rng)
    with pytest.raises(ValueError, match="run 1, column 0 is nan"):
        stats.mean([[1.0], [np.nan]], rng)
    with pytest.raises(ValueError, match="paired over runs and tasks"):
        stats.paired_difference(scores(), scores(runs=19), rng)
    with pytest.raises(TypeError, match=r"numpy.random.Generator"):
        stats.mean(scores(), 0)
    with pytest.raises(ValueError, match="reference 'c'"):
        stats.summary({"a": scores()}, rng, reference="c")
    with pytest.raises(ValueError, match="confidence=95"):
        stats.mean(scores(), rng, confidence=95)
