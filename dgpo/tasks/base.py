"""Where problems and rewards come from: what a task is, one of your own (task=module:Class) too."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One question. `prompt` is the exact text the policy reads (chat template applied); `answer` is the reference.

    `row` is the row of a file that it came from, whose columns rewards of your own read.
    """

    id: str
    prompt: str
    answer: str
    row: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


class Task:
    """A stream of training problems, a fixed held-out set, and the reward of a completion.

    heldout    evaluated in full, the same for every run of the task
    notes      counts of what loading left out, written into the run's summary
    verdicts   what completions were found to be so far (correct, wrong, no_answer, ...), counted

    A task whose problems have several solutions may also have `solution(completion)`, a text that tells those of right
    completions apart: evaluations then count the distinct ones (eval/coverage@k).
    """

    heldout: Sequence[Problem]
    notes: dict[str, int]
    verdicts: Counter[str]

    def __init__(self, config: Any, tokenizer: Any):
        """A task of one's own is made with the Config and the tokenizer."""

    def train(self, position: int) -> Problem:
        """The problem at `position` of an endless stream; a pure function of the task's settings and `position`."""
        raise NotImplementedError

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """The reward of each completion, a finite number; `problems` and `completions` are parallel."""
        raise NotImplementedError

    def means(self) -> dict[str, tuple[float, int]]:
        """(sum, count) of each reward by name since the last call, where the task has several."""
        return {}

    def close(self) -> None:
        """End whatever processes the task started."""
