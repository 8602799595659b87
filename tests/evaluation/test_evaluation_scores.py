"""avg@k, pass@k, maj@k, intervals and comparisons, against closed forms and simulation."""

from itertools import combinations
from math import comb

import numpy as np
import pytest

from dgpo.evaluation import report
from dgpo.evaluation.scores import Samples, compare, majority_at, pass_at, pass_curve, per_problem, powers, summary


def samples(right, n=None, answers=None, **overrides):
    """Samples from right ones per problem and n, or from lists of answers, of which "right" is right."""
    if answers is None:
        answers = [["right"] * c + ["other"] * (n - c) for c in right]
    answers = np.array(answers, dtype=object)
    verdicts = np.where(answers == "right", "correct", np.where(answers == None, "no_answer", "wrong"))  # noqa: E711
    given = {
        "benchmark": "b",
        "sha256": "x" * 64,
        "problems": tuple(f"p{i}" for i in range(len(answers))),
        "verdicts": verdicts.astype(object),
        "answers": answers,
        "lengths": np.ones(answers.shape),
        "finished": np.ones(answers.shape, bool),
    }
    return Samples(**{**given, **overrides})


def test_pass_at_every_k_is_its_closed_form():
    n, right = 64, [0, 1, 3, 40, 64]
    curve = pass_curve(samples(right, n))
    assert curve["k"].tolist() == list(range(1, n + 1))
    for k, value in zip(curve["k"], curve["pass"], strict=True):
        assert value == pytest.approx(np.mean([1 - comb(n - c, k) / comb(n, k) for c in right]), abs=1e-12)


def test_pass_at_k_is_what_simulation_finds_and_unbiased():
    """Drawing n=12 answers at known chances over and over, pass@4 averages to 1 − (1 − p)⁴."""
    rng = np.random.default_rng(1)
    chances = np.array([0.05, 0.3, 0.7])
    draws = [pass_at(samples(rng.binomial(12, chances), 12), 4)[0].value for _ in range(3000)]
    truth = np.mean(1 - (1 - chances) ** 4)
    assert abs(np.mean(draws) - truth) < 4 * np.std(draws) / len(draws) ** 0.5


MIXES = {
    "spread": lambda rng: rng.beta(0.4, 0.8, 40),
    "hard": lambda rng: rng.beta(0.2, 4, 40),
    "rare": lambda rng: 10 ** rng.uniform(-3, -0.5, 40),
    "half of them impossible": lambda rng: np.where(rng.random(40) < 0.5, 0, rng.beta(1, 1, 40)),
}


@pytest.mark.parametrize("k", [1, 4, 8, 16])
@pytest.mark.parametrize("mix", MIXES)
def test_interval_over_samples_covers_the_fixed_problems(mix, k):
    rng = np.random.default_rng(2)
    chances = MIXES[mix](rng)
    truth = np.mean(1 - (1 - chances) ** k)
    found = [pass_at(samples(rng.binomial(16, chances), 16), k)[0] for _ in range(400)]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= 0.93  # 400 draws at 0.95: 0.92 to 0.97


@pytest.mark.parametrize("chance", [0.02, 0.05, 0.2])
def test_beyond_half_of_the_samples_the_interval_covers_whatever_the_problems_are(chance):
    """Every problem with one chance near 1/n is the worst case of an interval that estimates the variance."""
    rng = np.random.default_rng(3)
    truth = 1 - (1 - chance) ** 16
    found = [pass_at(samples(rng.binomial(16, chance, size=40), 16), 16)[0] for _ in range(400)]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= 0.92


def test_interval_over_problems_covers_the_population():
    rng = np.random.default_rng(3)
    found = [pass_at(samples(rng.binomial(8, rng.beta(2, 3, size=30)), 8), 1)[1] for _ in range(600)]
    assert 0.92 <= np.mean([low <= 0.4 <= high for _, low, high in found]) <= 0.98


def test_all_wrong_is_not_certain():
    over_samples, over_problems = pass_at(samples([0] * 50, 2), 1)
    assert over_samples == (0.0, 0.0, pytest.approx(0.037, abs=1e-3))  # Wilson, 0 of 100
    assert over_problems == (0.0, 0.0, pytest.approx(0.0714, abs=1e-3))  # Wilson, 0 of 50
    assert np.isnan(pass_at(samples([3], 8), 1)[1].low)
    assert report.both(*pass_at(samples([8], 8), 1)) == "100.0 [67.6, 100.0] (–, –)"


def test_mean_of_benchmarks_weighs_them_alike():
    group = [samples([8] * 4, 8), samples([0, 4] * 50, 8)]
    over_samples, over_problems = pass_at(group, 1)
    assert over_samples.value == over_problems.value == 0.625
    alone = pass_at(group[1], 1)[0]
    assert over_samples.high - over_samples.low > (alone.high - alone.low) / 2
    few_and_many = pass_at([samples([0] * 30, 2), samples([0] * 1000, 2)], 1)[0]
    assert 0.01 < few_and_many.high < 0.06  # thirty problems weigh as much as a thousand


def test_two_policies_that_solve_nothing_may_differ():
    found = compare(samples([0] * 30, 2), samples([0] * 30, 2))
    assert found.p_samples == found.p_problems == 1.0
    assert found.samples.low < -0.02 < 0.02 < found.samples.high
    assert found.problems.low < 0 < found.problems.high


def test_majority_by_hand_and_by_all_subsets():
    answers = [["right", "right", "x", "y", "x"], ["right", "x", "x", None, "y"], [None] * 5]
    found = majority_at(samples(None, answers=answers), [1, 3, 5], draws=4000)
    assert found[5].tolist() == [0.5, 0.0, 0.0]
    assert found[1] == pytest.approx([0.4, 0.2, 0.0], abs=0.03)
    shares = []
    for subset in combinations(answers[0], 3):
        votes = {a: subset.count(a) for a in subset}
        best = [a for a, v in votes.items() if v == max(votes.values())]
        shares.append(("right" in best) / len(best))
    assert found[3][0] == pytest.approx(np.mean(shares), abs=0.03)


def test_difference_and_its_permutation_test():
    """With one problem of three completions each, all exchanges of labels can be counted."""
    a, b = samples([3], 3), samples([1], 3)
    outcomes = [1, 1, 1, 1, 0, 0]
    stats = []
    for taken in combinations(range(6), 3):
        first = sum(outcomes[i] for i in taken)
        stats.append((first - (4 - first)) / 3)
    exact = np.mean(np.abs(stats) >= 2 / 3 - 1e-9)
    found = compare(a, b)
    assert found.samples.value == pytest.approx(2 / 3)
    assert found.p_samples == pytest.approx(exact, abs=0.02)
    assert np.isnan(found.problems.low)


def test_p_values_are_uniform_without_a_difference_and_small_with_one():
    rng = np.random.default_rng(4)
    chances = rng.beta(1, 1, size=40)
    pairs = [[samples(rng.binomial(8, chances), 8) for _ in range(2)] for _ in range(200)]
    found = [compare(a, b, draws=500) for a, b in pairs]
    assert 0.01 <= np.mean([f.p_samples < 0.05 for f in found]) <= 0.1
    assert np.mean([f.samples.low <= 0 <= f.samples.high for f in found]) >= 0.9
    strong = compare(samples(rng.binomial(8, np.clip(chances + 0.3, 0, 1)), 8), pairs[0][0])
    assert strong.p_samples < 0.001
    assert strong.p_problems < 0.001
    assert strong.samples.low > 0


def test_other_problems_are_not_compared():
    with pytest.raises(ValueError, match="not the same problems"):
        compare(samples([1], 2), samples([1], 2, sha256="y" * 64))


@pytest.mark.parametrize("k", [0, 9])
def test_k_beyond_n(k):
    for function in (lambda: pass_at(samples([1], 8), k), lambda: majority_at(samples([1], 8), [k])):
        with pytest.raises(ValueError, match=f"given k={k}, n=8"):
            function()


def test_tables():
    one = samples(None, answers=[["right", None, "x", "x"], ["right"] * 4])
    frame, row = per_problem(one), summary(one)
    assert powers(6) == [1, 2, 4, 6]
    assert frame["avg"].tolist() == [0.25, 1.0]
    assert frame["no_answer"].tolist() == [0.25, 0.0]
    assert row["avg@4"] == row["pass@1"] == 0.625
    assert row["avg@4_samples_low"] < 0.625 < row["avg@4_problems_high"]
    assert (row["verdict/correct"], row["maj@4"]) == (0.625, 0.5)
