"""The interface of a task, the source of problems and rewards; also for your own (task=module:Class)."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from dgpo.errors import Explained
from dgpo.plain import plain


class TaskError(Explained, ValueError):
    """A task of one's own gave something that is no reward."""

    exit_code = 3


@dataclass(frozen=True)
class Problem:
    """One question. `prompt` is the exact text the policy reads (chat template applied); `answer` is the reference.

    `row` is its row of the problem file, whose columns your own rewards can read; `messages` is the conversation where
    the row has one in place of a text.
    """

    id: str
    prompt: str
    answer: str
    row: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
    messages: list[dict[str, Any]] | None = field(default=None, compare=False, repr=False)


class Task:
    """A stream of training problems, a fixed held-out set, and the reward of a completion.

    heldout    evaluated in full, the same for every run of the task
    notes      counts of what loading left out, for the run's summary; empty unless set
    verdicts   counts of the verdicts so far (correct, wrong, no_answer, …); empty unless `rewards` adds to it

    A task whose problems have several solutions may also have `solution(completion)`, a text that identifies the
    solution of a right completion: evaluations then count the distinct ones (eval/coverage@k).
    """

    heldout: Sequence[Problem]

    @cached_property
    def notes(self) -> dict[str, int]:
        return {}

    @cached_property
    def verdicts(self) -> Counter[str]:
        return Counter()

    def __init__(self, config: Any, tokenizer: Any):
        """Your own task is made with the Config and the tokenizer."""

    def train(self, position: int) -> Problem:
        """The problem at `position` of an endless stream; a pure function of the task's settings and `position`."""
        raise NotImplementedError

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """The reward of each completion, a finite number; `problems` and `completions` are parallel."""
        raise NotImplementedError

    def score(
        self, problems: Sequence[Problem], completions: Sequence[str], completion_ids: Sequence[Sequence[int]]
    ) -> Sequence[float | None]:
        """What training and evaluation ask for: `rewards`, unless a task looks at the token ids `[rows][tokens]` too.

        None is a reward that failed: 0 in training, never right in an evaluation. Raises TaskError where `rewards`
        gives another number of values, or one that is no finite number.
        """
        found, name = plain(self.rewards(problems, completions)), f"{type(self).__module__}:{type(self).__name__}"
        if not isinstance(found, list | tuple) or len(found) != len(completions):
            count = f"{len(found)} values" if isinstance(found, list | tuple) else repr(found)
            raise TaskError(f"task={name!r}: rewards returned {count} for {len(completions)} completions")
        for value, problem in zip(found, problems, strict=True):
            if not isinstance(value, bool | int | float) or not math.isfinite(value):
                raise TaskError(
                    f"task={name!r}: rewards returned {value!r} for {problem.id!r}; expected a finite number"
                )
        return found

    def means(self) -> dict[str, tuple[float, int]]:
        """(sum, count) of each reward by name since the last call, for a task with several."""
        return {}

    def close(self) -> None:
        """End the processes that the task started."""
