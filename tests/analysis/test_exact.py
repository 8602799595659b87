"""Exact tests against enumeration by hand, and how often what they say is true where runs collapse."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from analysis import exact, stats

numbers = st.lists(st.floats(-10, 10).map(lambda x: round(x, 3)), min_size=2, max_size=8)


def test_sign_flips_by_hand():
    assert exact.sign_flip([1, 2, 3]) == 2 / 8
    assert exact.sign_flip([1, -1]) == 1
    assert exact.sign_flip([1, 1, -1]) == 1  # sums 1 and 3 of 8 flips: all are at least 1
    assert exact.sign_flip([3, 3, -1]) == 4 / 8
    assert exact.sign_flip([0.0, 0.0]) == 1


@given(numbers)
def test_against_scipys_permutation_test(d):
    found = scipy_stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert exact.sign_flip(d) == pytest.approx(found)


@example([2.809, 2.809, 2.809])  # whose mean is a bit below
@given(numbers)
def test_the_interval_is_where_the_test_does_not_reject(d):
    found = exact.sign_flip_interval(d, 0.7)
    assert found.low <= found.value <= found.high
    if np.isfinite(found.high) and np.ptp(d) > 1e-6:
        step = 1e-6 * max(1.0, np.ptp(d))
        assert exact.sign_flip(np.array(d) - (found.high + step)) <= 0.3 + 1e-12


def test_too_few_differences_decide_nothing():
    tied = exact.sign_flip_interval([-0.145, -0.145])
    assert (tied.low, tied.high) == (-np.inf, np.inf)
    assert np.isinf(exact.sign_flip_interval([1, 2, 3, 4, 5]).high)  # 2/32 is above 0.05
    assert np.isfinite(exact.sign_flip_interval([1, 2, 3, 4, 5, 6]).high)
    with pytest.raises(ValueError, match="at least two"):
        exact.sign_flip([1.0])


def test_holm_by_hand():
    assert exact.holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert exact.holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}


def test_many_differences_are_sampled_and_agree_with_the_exact_p():
    d = np.random.default_rng(1).normal(0.3, 1, 20)
    whole = scipy_stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=200_000, rng=0).pvalue
    assert exact.sign_flip(d) == pytest.approx(whole, abs=0.005)


class TestCoverage:
    """A page of 20 comparisons, as docs/results has them: how often is all of it true together?"""

    PAGES, LINES = 200, 20

    @pytest.mark.parametrize("n", [5, 10, 20])
    @pytest.mark.parametrize("collapse", [0.1, 0.4, 0.8])
    def test_proportions_of_collapsed_runs(self, n, collapse):
        """Joint by Bonferroni; every outcome k of n is weighed, so that nothing is drawn."""
        confidence = 1 - 0.05 / self.LINES
        covers = [exact.proportion(k, n, confidence) for k in range(n + 1)]
        inside = sum(scipy_stats.binom.pmf(k, n, collapse) for k, e in enumerate(covers) if e.low <= collapse <= e.high)
        assert inside**self.LINES >= 0.94

    @pytest.mark.parametrize("n", [5, 10, 12])
    @pytest.mark.parametrize("kind", ["normal", "ties"])
    def test_differences_of_runs_that_did_not_collapse(self, n, kind):
        rng, wrong = np.random.default_rng(0), 0
        for _ in range(self.PAGES):
            draws = rng.normal(0, 0.03, (self.LINES, n))
            draws = np.round(draws * 64) / 64 if kind == "ties" else draws  # scores are multiples of 1/64
            ps = {i: exact.sign_flip(d) for i, d in enumerate(draws)}
            wrong += min(exact.holm(ps).values()) < 0.05
        assert wrong / self.PAGES <= 0.06 + 2 * (0.05 * 0.95 / self.PAGES) ** 0.5

    def test_collapse_of_equal_methods_is_rarely_called_different(self):
        rng, wrong = np.random.default_rng(0), 0
        for _ in range(self.PAGES):
            base, fell = rng.binomial(10, 0.4), rng.binomial(10, 0.4, self.LINES)
            wrong += min(exact.holm({i: exact.fisher(k, 10, base, 10) for i, k in enumerate(fell)}).values()) < 0.05
        assert wrong / self.PAGES <= 0.06

    def test_students_t_does_not_hold_where_runs_collapse(self):
        """Why this file exists: a mixture of 0 and 0.8, collapse probability 0.1, five seeds."""
        rng, covered = np.random.default_rng(0), 0
        for _ in range(400):
            scores = np.where(rng.random(5) < 0.1, 0.0, 0.8) + rng.normal(0, 0.01, 5)
            found = stats.paired_t(scores[:, None], np.zeros((5, 1)))
            covered += found.low <= 0.72 <= found.high
        assert covered / 400 < 0.75


def test_a_row_of_a_comparison_and_its_adjustment_together_with_others():
    d = [0.1, 0.2, 0.3, 0.4]
    row = exact.paired(d)
    assert row["p"] == exact.sign_flip(d) == 2 / 2**4
    assert row["difference"] == pytest.approx(0.25)
    assert row["low"] < 0.25 < row["high"]
    assert exact.paired([0.1]) == {}
    raw = pd.DataFrame({"p": [0.01, np.nan, 0.04], "p_collapse": [0.02, 0.5, np.nan]})
    table = exact.adjust(raw, ("p", "p_collapse"))
    assert table["p_holm"].tolist() == pytest.approx([0.04, np.nan, 0.08], nan_ok=True)  # four tests, smallest first
    assert table["p_collapse_holm"].tolist() == pytest.approx([0.06, 0.5, np.nan], nan_ok=True)
    assert "p_holm" not in exact.adjust(pd.DataFrame({"line": ["grpo"]}))
