"""avg@k, the unbiased pass@k, and evaluation of a policy."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo.evaluation.heldout import HeldoutResult, evaluate, mean_interval, pass_at_k
from dgpo.model.loading import load_lm
from dgpo.model.policy import Policy
from dgpo.rollout import Sampling, TransformersSampler
from dgpo.tasks.base import Problem
from dgpo.tasks.chain import ChainTask


@given(st.integers(1, 40), st.data())
def test_pass_at_k_is_its_closed_form(n, data):
    k = data.draw(st.integers(1, n))
    correct = np.arange(n + 1)
    expected = [1 - comb(n - c, k) / comb(n, k) for c in correct]
    np.testing.assert_allclose(pass_at_k(correct, n, k), expected, rtol=0, atol=1e-12)


def test_pass_at_k_is_the_share_of_subsets_with_a_right_one():
    right = [1, 0, 0, 1, 0, 0]
    subsets = [any(s) for s in combinations(right, 3)]
    assert pass_at_k(np.array([2]), 6, 3)[0] == pytest.approx(np.mean(subsets))


@pytest.mark.parametrize("k", [0, 5])
def test_k_beyond_n_is_refused(k):
    with pytest.raises(ValueError, match=f"given k={k}, n=4"):
        pass_at_k(np.array([1]), 4, k)


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    chances = rng.beta(2, 3, size=(400, 100))  # 400 sets of 100 problems
    scores = rng.binomial(8, chances) / 8
    covered = [low <= 0.4 <= high for _, low, high in map(mean_interval, scores)]
    assert 0.91 <= np.mean(covered) <= 0.99


def test_metrics_by_hand():
    problems = (Problem("a", "a", "1"), Problem("b", "b", "2"))
    result = HeldoutResult(
        problems,
        rewards=np.array([[1.0, 0.0], [0.0, 0.0]]),
        completions=[["x", "y"], ["z", "w"]],
        lengths=np.array([[2, 4], [4, 6]]),
        finished=np.array([[True, True], [True, False]]),
    )
    metrics = result.metrics()
    assert metrics["eval/avg@2"] == 0.25
    assert metrics["eval/pass@2"] == 0.5
    assert "eval/pass@4" not in metrics
    assert metrics["eval/avg@2_low"] == 0.0
    assert (metrics["eval/length"], metrics["eval/truncated"]) == (4.0, 0.25)
    row = {"step": 3, "prompt": "a", "answer": "1", "completion": "x", "reward": 1.0, "ended": "stop"}
    assert result.examples(3, 1) == [row]


def test_a_reward_that_failed_is_zero_and_not_right(checkpoint):
    class Failing(ChainTask):
        def score(self, problems, completions, completion_ids):
            assert [len(ids) > 0 for ids in completion_ids] == [True] * len(completions)
            return [None if i % 2 else -1.0 for i in range(len(completions))]

    lm, tokenizer = load_lm(checkpoint)
    task, sampler = Failing(1, 0, 3), TransformersSampler(Policy(lm), tokenizer, 8)
    result = evaluate(sampler, tokenizer, task, 2, Sampling(14), right_above=-2.0)
    assert result.rewards.tolist() == [[-1, 0]] * 3
    assert result.metrics()["eval/avg@2"] == 0.5


def test_one_problem_has_no_interval_rather_than_a_certain_one():
    metrics = HeldoutResult(
        (Problem("a", "a", "1"),), np.ones((1, 2)), [["x", "y"]], np.ones((1, 2)), np.ones((1, 2))
    ).metrics()
    assert metrics["eval/avg@2"] == 1.0
    assert metrics["eval/avg@2_low"] is None


def test_evaluation_is_the_same_at_every_call(checkpoint):
    lm, tokenizer = load_lm(checkpoint)
    task, sampler = ChainTask(1, 0, 6), TransformersSampler(Policy(lm), tokenizer, 8)
    first, second = (evaluate(sampler, tokenizer, task, 3, Sampling(14)) for _ in range(2))
    assert first.rewards.shape == (6, 3)
    assert first.completions == second.completions
    assert any(len(set(texts)) > 1 for texts in first.completions)
    again = [task.rewards([p] * 3, texts) for p, texts in zip(task.heldout, first.completions, strict=True)]
    assert first.rewards.tolist() == again
