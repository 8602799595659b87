"""Audit: where this verifier and math-verify alone disagree over a file.

    python -m dgpo.verifier FILE [--answer-field answer] [--completion-field completion] [--workers 2]

FILE is .jsonl, .json, .parquet or .csv. A row with a completion is judged by it. A file of problems has none: there
each reference answer is put in a box and judged against itself. Rows with an empty answer are skipped.
"""

import argparse
import json
import sys
from collections import Counter

from dgpo.data.files import DataError, answer_text, read_rows
from dgpo.verifier import Verifier, final_answer
from dgpo.verifier.answer import MAX_ANSWER


def main(arguments: list[str] | None = None) -> int:
    """Print every disagreement as a line of JSON, then the counts; 0 if the file could be read."""
    parser = argparse.ArgumentParser(prog="python -m dgpo.verifier", description=str(__doc__).splitlines()[0])
    parser.add_argument("file")
    parser.add_argument("--answer-field", default="answer")
    parser.add_argument("--completion-field", help="every row needs it; default: completion, if there")
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error(f"--workers {options.workers} must be at least 1")
    try:
        numbers, pairs = _pairs(options.file, options.answer_field, options.completion_field)
    except DataError as error:
        print(error, file=sys.stderr)
        return 2
    with Verifier(workers=options.workers) as verifier:
        ours, plain = verifier.verify_many(pairs), verifier.plain(pairs)
    for number, (gold, completion), mine, other in zip(numbers, pairs, ours, plain, strict=True):
        if (mine == "correct") != (other == "correct"):
            row = {"line": number, "gold": gold, "answer": final_answer(completion), "dgpo": mine, "math_verify": other}
            print(json.dumps(row, ensure_ascii=False))
    print(f"{len(pairs)} judged. dgpo: {_counts(ours)}. math-verify: {_counts(plain)}.")
    return 0


def _pairs(file: str, answer_field: str, completion_field: str | None):
    numbers, pairs = [], []
    wanted = [answer_field] if completion_field is None else [answer_field, completion_field]
    for number, row, fault in read_rows(file):
        if fault:
            raise DataError(f"{file}, line {number}: {fault}")
        if absent := [field for field in wanted if field not in row]:
            raise DataError(f"{file}, line {number}: no field {absent[0]!r}; the row has {', '.join(map(repr, row))}")
        answer = row[answer_field]
        if answer is None or answer != answer or not str(answer).strip():  # NaN is not itself
            continue
        gold = answer_text(answer)
        if len(gold) > MAX_ANSWER:
            raise DataError(f"{file}, line {number}: answer of {len(gold)} characters; the limit is {MAX_ANSWER}")
        completion = row.get(completion_field or "completion")
        if completion is None and completion_field is None:
            completion = rf"\boxed{{{gold}}}"
        if not isinstance(completion, str):
            raise DataError(f"{file}, line {number}: the completion is {completion!r}, not a string")
        numbers.append(number)
        pairs.append((gold, completion))
    return numbers, pairs


def _counts(verdicts) -> str:
    return ", ".join(f"{n} {verdict}" for verdict, n in Counter(map(str, verdicts)).most_common())


if __name__ == "__main__":
    sys.exit(main())
