"""Problems from a file: an endless shuffled stream, and held-out ones that the stream never contains.

`MathTask` and `RewardTask` judge them. A problem is rendered in the checkpoint's own chat template, or plainly, with
`<think>` opened, if it has none.
"""

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dgpo.data.files import DataError, answer_text, checked_rows
from dgpo.data.messages import messages_of, problem_text
from dgpo.data.overlap import loose_key
from dgpo.tasks.base import Problem, Task
from dgpo.tasks.prompts import INSTRUCTION, prompt


class FileTask(Task):
    """Rows of `data` as an endless shuffled stream, and `heldout` fixed problems that the stream never contains.

    data, eval_data     a .jsonl, .json, .parquet or .csv file, or the hub name `owner/name[:split]` of a dataset
    encoding            of either, where it is a text file and not UTF-8
    heldout             the first rows of `eval_data`; without it, the rows of `data` whose texts have the smallest
                        checksums: the same for every seed, and with all copies of a text on one side
    drop_contaminated   leave out training rows that match a held-out problem exactly or up to punctuation
                        (`dgpo.data.overlap`); with `eval_data` only, since a split of one file keeps copies together
    notes               skipped_rows, long_prompts, duplicate_rows, conflicting_answers, rows_also_heldout,
                        contaminated_rows, examples_also_heldout
    instruction         text after each problem; system_prompt is text before it
    examples            (problem, completion) pairs that every prompt shows before its problem
    needs_answer        whether a row must have one
    verdicts            counts of the verdicts so far

    Raises DataError for a row without a problem or an answer and for a broken line (`skip_bad_rows` leaves them out
    instead), for an empty file, if no prompt has at most `max_prompt_tokens`, if there are fewer rows than `heldout`,
    and if all are contaminated.
    """

    def __init__(
        self,
        data: str | Path,
        tokenizer,
        *,
        problem_field: str = "problem",
        answer_field: str = "answer",
        encoding: str = "utf-8",
        skip_bad_rows: bool = False,
        max_prompt_tokens: int = 1024,
        seed: int = 0,
        eval_data: str | Path | None = None,
        heldout: int = 0,
        drop_contaminated: bool = False,
        date: str | None = None,
        instruction: str = INSTRUCTION,
        system_prompt: str | None = None,
        examples: Sequence[tuple[str, str]] = (),
        needs_answer: bool = True,
    ):
        self.seed, self.notes, self.verdicts = seed, {}, Counter()
        self._needs_answer = needs_answer
        self._prompt = functools.partial(
            prompt, tokenizer=tokenizer, day=date, instruction=instruction, system=system_prompt, examples=examples
        )
        reading = tokenizer, (problem_field, answer_field), encoding, skip_bad_rows, max_prompt_tokens
        rows = self._load(data, *reading, "")
        if eval_data is None:
            self._problems, self.heldout = _split(rows, heldout, data)
        else:
            others = self._load(eval_data, *reading, "heldout_")
            if len(others) < heldout:
                raise DataError(f"{eval_data} has {len(others)} usable rows, fewer than eval_problems={heldout}")
            aside = {text for text, _ in others[:heldout]}
            self.notes["rows_also_heldout"] = sum(text in aside for text, _ in rows)
            if drop_contaminated:
                rows = self._drop_contaminated(rows, aside, data, eval_data)
            self._problems, self.heldout = tuple(p for _, p in rows), tuple(p for _, p in others[:heldout])
        if examples:
            aside = {loose_key(problem_text(p.row[problem_field])) for p in self.heldout}
            self.notes["examples_also_heldout"] = sum(loose_key(text) in aside for text, _ in examples)
        self._order = functools.lru_cache(maxsize=2)(self._permutation)

    def __len__(self):
        """Problems in one epoch of the training stream."""
        return len(self._problems)

    def train(self, position: int) -> Problem:
        epoch, index = divmod(position, len(self._problems))
        return self._problems[self._order(epoch)[index]]

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        raise NotImplementedError

    def close(self) -> None:
        """Nothing to end."""

    def _permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self._problems))

    def _drop_contaminated(self, rows, aside: set[str], data, eval_data):
        loose = {loose_key(text) for text in aside} - {""}
        kept = [row for row in rows if row[0] not in aside and loose_key(row[0]) not in loose]
        if not kept:
            raise DataError(f"{data}: drop_contaminated=true leaves no row: {eval_data} holds them all")
        self.notes["contaminated_rows"] = len(rows) - len(kept)
        return kept

    def _load(self, data, tokenizer, fields, encoding, skip_bad_rows, limit, prefix) -> list[tuple[str, Problem]]:
        """The usable rows as (text, problem), what was left out counted under `prefix`."""
        rows, faults = [], []
        for (number, row, _), fault in checked_rows(data, encoding, *fields, needs_answer=self._needs_answer):
            if fault and not skip_bad_rows:
                raise DataError(f"{data}, line {number}: {fault}; skip_bad_rows=true leaves such rows out")
            if fault:
                faults.append(f"line {number}: {fault}")
            else:
                asked, name = row[fields[0]], str(row.get("id", f"{Path(data).stem}:{number}"))
                answer = answer_text(row.get(fields[1], ""))
                problem = Problem(name, self._prompt(asked), answer, row, messages_of(asked))
                rows.append((" ".join(problem_text(asked).split()), problem))
        if not rows:
            why = f"{len(faults)} skipped, such as {faults[0]}" if faults else "the file is empty"
            raise DataError(f"{data}: no usable row, {why}")
        lengths = _lengths([p.prompt for _, p in rows], tokenizer)
        kept = [row for row, length in zip(rows, lengths, strict=True) if length <= limit]
        if not kept:
            raise DataError(
                f"{data}: no prompt has at most max_prompt_tokens={limit} tokens; the shortest has {min(lengths)}"
            )
        answers: dict[str, set[str]] = {}
        for text, problem in kept:
            answers.setdefault(text, set()).add(problem.answer)
        self.notes |= {
            f"{prefix}skipped_rows": len(faults),
            f"{prefix}long_prompts": len(rows) - len(kept),
            f"{prefix}duplicate_rows": len(kept) - len(answers),
            f"{prefix}conflicting_answers": sum(len(a) > 1 for a in answers.values()),
        }
        return kept


def _lengths(prompts: list[str], tokenizer) -> list[int]:
    """The tokens of each prompt; a thousand at a time, since all at once take eight times the memory."""
    parts = (prompts[i : i + 1000] for i in range(0, len(prompts), 1000))
    return [len(ids) for part in parts for ids in tokenizer(part, add_special_tokens=False)["input_ids"]]


def _split(rows, heldout: int, data) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    first: dict[str, Problem] = {}
    for text, problem in rows:
        first.setdefault(text, problem)
    if heldout >= len(first):
        raise DataError(
            f"{data} has {len(first)} different problems: too few for eval_problems={heldout} and one to train on"
        )
    aside = sorted(first, key=lambda text: hashlib.sha256(text.encode()).digest())[:heldout]
    chosen = set(aside)
    return tuple(p for text, p in rows if text not in chosen), tuple(first[text] for text in aside)
