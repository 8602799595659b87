"""Problems from a file, rewarded when the completion's boxed answer is right.

task = MathTask("train.jsonl", tokenizer, problem_field="problem", answer_field="answer", encoding="utf-8",
                skip_bad_rows=False, max_prompt_tokens=1024, seed=0, heldout=128)
"""

from collections.abc import Sequence
from pathlib import Path

from dgpo.tasks.base import Problem
from dgpo.tasks.rows import FileTask
from dgpo.verifier import Verdict, Verifier


class MathTask(FileTask):
    """A FileTask whose completions a Verifier judges: 1 for the right answer in the last closed box, else 0."""

    def __init__(self, data: str | Path, tokenizer, *, verifier: Verifier | None = None, **settings):
        self.verifier = Verifier() if verifier is None else verifier
        super().__init__(data, tokenizer, **settings)

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        pairs = [(p.answer, c) for p, c in zip(problems, completions, strict=True)]
        verdicts = self.verifier.verify_many(pairs)
        self.verdicts.update(verdicts)
        return [float(v == Verdict.correct) for v in verdicts]

    def close(self) -> None:
        """End the verifier's workers."""
        self.verifier.close()
