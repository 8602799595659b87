"""Problems from a file, judged by rewards of your own: reward=module:function, in TRL's convention.

The columns of a row reach the functions as keywords, `answer` among them where it has one.
"""

from collections.abc import Sequence
from pathlib import Path

from dgpo.tasks.base import Problem
from dgpo.tasks.rewards import Rewards
from dgpo.tasks.rows import FileTask

_GIVEN = ("prompt", "prompts", "completions", "completion_ids")  # of a row, such columns reach no function


class RewardTask(FileTask):
    """A FileTask whose reward is the weighted sum of `rewards`; at least `threshold` counts as right in avg@k, pass@k.

    verdicts are `right` and `wrong`, by the threshold.
    """

    def __init__(self, data: str | Path, tokenizer, *, rewards: Rewards, threshold: float, **settings):
        self.judges, self.threshold = rewards, threshold
        super().__init__(data, tokenizer, needs_answer=False, **settings)
        check_columns(rewards, (*self.heldout, *self._problems), data)

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """The reward of each completion without its token ids; one that fails is 0."""
        return [reward or 0.0 for reward in self.score(problems, completions)]

    def score(
        self,
        problems: Sequence[Problem],
        completions: Sequence[str],
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> list[float | None]:
        found = judged(self.judges, problems, completions, completion_ids)
        failed = found.count(None)
        right = sum(reward is not None and reward >= self.threshold for reward in found)
        self.verdicts.update(right=right, wrong=len(found) - right - failed, failed=failed)
        return found

    def means(self) -> dict[str, tuple[float, int]]:
        """(sum, count) of each function's rewards since the last call."""
        return self.judges.means()

    def close(self) -> None:
        """End the processes of the rewards."""
        self.judges.close()


def check_columns(rewards: Rewards, problems: Sequence[Problem], data: str | Path) -> None:
    """Raise ConfigError if a reward cannot be called with the columns of one of the problems."""
    for columns, name in {tuple(_columns(p)): p.id for p in problems}.items():
        rewards.check(columns, f"row {name} of {data}")


def judged(
    rewards: Rewards,
    problems: Sequence[Problem],
    completions: Sequence[str],
    completion_ids: Sequence[Sequence[int]] | None = None,
) -> list[float | None]:
    """The reward of each completion; problems that are conversations reach the functions as lists of messages.

    None is a reward that failed.
    """
    prompts = [p.messages or p.prompt for p in problems]
    replies = [
        [{"role": "assistant", "content": text}] if p.messages else text
        for p, text in zip(problems, completions, strict=True)
    ]
    return rewards(prompts, replies, [_columns(p) for p in problems], completion_ids)


def _columns(problem: Problem) -> dict:
    return {name: value for name, value in problem.row.items() if name not in _GIVEN}
