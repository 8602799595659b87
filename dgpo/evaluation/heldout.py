"""The score of a policy in training: avg@k and the unbiased pass@k on held-out problems, with intervals over problems.

`dgpo.evaluation` is the evaluation of a finished checkpoint: benchmarks, stored completions, comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, compress

import numpy as np

from dgpo.distributed import process_group
from dgpo.rollout import Sampler, Sampling
from dgpo.seeds import fold_in
from dgpo.tasks.base import Problem, Task


def pass_at_k(correct: np.ndarray, n: int, k: int) -> np.ndarray:
    """Unbiased estimate of the chance that one of k samples is right, from c right of n: 1 − C(n−c, k)/C(n, k).

    `correct` holds c per problem, `[P]` → `[P]`. Raises ValueError for k > n.
    Source: Chen et al. 2021, arXiv 2107.03374.
    """
    if not 1 <= k <= n:
        raise ValueError(f"pass@k needs 1 ≤ k ≤ n, given k={k}, n={n}")

    steps = np.arange(k)
    misses = np.clip(n - np.asarray(correct, float)[..., None] - steps, 0, None) / (n - steps)
    return 1.0 - misses.prod(-1)


def mean_interval(values: np.ndarray, z: float = 1.96) -> tuple[float, float | None, float | None]:
    """(mean, low, high) of scores `[P]` in [0, 1]: the normal 95 % interval over problems, None for a single one."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, None, None
    half = z * float(np.std(values, ddof=1)) / len(values) ** 0.5
    return mean, max(0.0, mean - half), min(1.0, mean + half)


@dataclass(frozen=True)
class HeldoutResult:
    """Rewards `[P, k]` of k completions of P held-out problems, their texts and their lengths in tokens.

    failed       whether a reward failed: such a completion has 0 and is not right
    solutions    `[P]` distinct right answers among the k, for a task whose problems have several
    """

    problems: Sequence[Problem]
    rewards: np.ndarray
    completions: list[list[str]]
    lengths: np.ndarray
    finished: np.ndarray
    right_above: float = 1.0
    failed: np.ndarray | bool = False
    solutions: np.ndarray | None = None

    def metrics(self) -> dict[str, float | None]:
        """avg@k and pass@k with 95 % intervals over problems, pass@2, 4, ... below k, mean length, truncated share.

        For a task with several solutions also coverage@k: how many distinct ones k completions of a problem find.
        """
        k = self.rewards.shape[1]
        is_right = np.where(np.isnan(self.rewards), np.nan, (self.rewards >= self.right_above) & ~np.array(self.failed))
        right = (is_right == 1).sum(1)
        out = {}
        for name, values in (("avg", is_right.mean(1)), ("pass", pass_at_k(right, k, k))):
            mean, low, high = mean_interval(values)
            out |= {f"eval/{name}@{k}": mean, f"eval/{name}@{k}_low": low, f"eval/{name}@{k}_high": high}
        for j in (2**i for i in range(1, k.bit_length()) if 2**i < k):
            out[f"eval/pass@{j}"] = float(pass_at_k(right, k, j).mean())
        if self.solutions is not None:
            out[f"eval/coverage@{k}"] = float(self.solutions.mean())
        return out | {
            "eval/length": float(self.lengths.mean()),
            "eval/truncated": float(1 - self.finished.mean()),
        }

    def examples(self, step: int, count: int) -> list[dict]:
        """The first completion of each of the first problems, as rows to keep."""
        return [
            {
                "step": step,
                "prompt": p.prompt,
                "answer": p.answer,
                "completion": texts[0],
                "reward": float(rewards[0]),
                "ended": "stop" if finished[0] else "length",
            }
            for p, texts, rewards, finished in zip(
                self.problems[:count], self.completions, self.rewards, self.finished, strict=False
            )
        ]


def evaluate(
    sampler: Sampler, tokenizer, task: Task, completions: int, sampling: Sampling, right_above: float = 1.0
) -> HeldoutResult:
    """Sample `completions` answers to every held-out problem, each sampler its share; all ranks get the whole result.

    The seeds are the same in every call and every run.
    """
    problems = [p for p in task.heldout for _ in range(completions)]
    own = sampler.share(len(problems))
    seeds = [fold_in("evaluate", i) for i in range(len(problems))]
    batch = sampler.generate(encode(tokenizer, [p.prompt for p in problems[own]]), seeds[own], sampling)
    rows = process_group.all_gather_object(
        [*zip(decode(tokenizer, batch), token_ids(batch), batch.finished.tolist(), strict=True)]
    )
    texts, ids, finished = map(list, zip(*chain(*rows), strict=True))
    own = process_group.local_slice(len(problems))  # all ranks judge, whichever sample
    rewards = [*chain(*process_group.all_gather_object(task.score(problems[own], texts[own], ids[own])))]
    lengths = [*map(len, ids)]
    shape = (len(task.heldout), completions)
    failed = np.array([reward is None for reward in rewards]).reshape(shape)
    rewards = np.array([0.0 if reward is None else reward for reward in rewards]).reshape(shape)
    texts = [[*texts[i : i + completions]] for i in range(0, len(texts), completions)]
    return HeldoutResult(
        problems=task.heldout,
        rewards=rewards,
        completions=texts,
        lengths=np.array(lengths).reshape(shape),
        finished=np.array(finished).reshape(shape),
        right_above=right_above,
        failed=failed,
        solutions=_distinct(task, texts, (rewards >= right_above) & ~failed),
    )


def _distinct(task: Task, texts: list[list[str]], is_right: np.ndarray) -> np.ndarray | None:
    """`[P]` distinct solutions among the right completions; None for a task that does not tell them apart."""
    if (solution := getattr(task, "solution", None)) is None:
        return None
    return np.array([len({solution(t) for t in compress(*row)}) for row in zip(texts, is_right, strict=True)])


def encode(tokenizer, prompts: list[str]) -> list[list[int]]:
    """Token ids of prompt texts, with no special tokens added: a chat template has already written its own."""
    return tokenizer(prompts, add_special_tokens=False).input_ids if prompts else []


def decode(tokenizer, batch) -> list[str]:
    """Completion texts without the stop token."""
    return tokenizer.batch_decode(token_ids(batch), skip_special_tokens=True) if len(batch) else []


def token_ids(batch) -> list[list[int]]:
    """Token ids of each completion, with the stop token."""
    return [ids[mask].tolist() for ids, mask in zip(batch.completion, batch.mask, strict=True)]
