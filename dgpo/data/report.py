"""What a file of problems holds, and which of them another file holds too (dgpo.data.overlap).

python -m dgpo data check FILE [--against TEST ...]
"""

import argparse
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from dgpo.data import overlap
from dgpo.data.files import DataError, answer_text, checked_rows, is_empty
from dgpo.data.messages import problem_text
from dgpo.data.overlap import CJK, KINDS, Row, contamination, exact_key, matched
from dgpo.plain import path_text

_SHOWN = 5  # examples of a finding
_HAS_CJK = re.compile(f"[{CJK}]")
_LEADING_ZERO = re.compile(r"-?0\d+")


@dataclass(frozen=True)
class Report:
    """Findings in one file. Lists hold the names of the rows concerned; `faults` also says why training refuses or
    skips a row."""

    rows: int
    unreadable: list[str]
    faults: list[str]
    fields: Counter
    empty_problems: list[str]
    empty_answers: list[str]
    answer_types: Counter
    leading_zeros: list[str]
    duplicates: int
    conflicting: list[list[str]]
    scripts: Counter

    def lines(self) -> Iterable[str]:
        """The report as text."""
        yield f"rows                   {self.rows}"
        yield from _counted("unreadable lines", self.unreadable)
        yield f"bad rows               {len(self.faults)}" + (
            "; skip_bad_rows=true leaves them out" if self.faults else ""
        )
        yield from (f"  {fault}" for fault in self.faults[:_SHOWN])
        if len(self.faults) > _SHOWN:
            yield f"  and {len(self.faults) - _SHOWN} more"
        whole = [name for name, count in self.fields.items() if count == self.rows]
        partly = [f"{name} ({count})" for name, count in self.fields.items() if count < self.rows]
        yield f"fields                 {', '.join(whole) or 'none'}" + (
            f"; in some rows: {', '.join(partly)}" if partly else ""
        )
        yield from _counted("empty problems", self.empty_problems)
        yield from _counted("empty answers", self.empty_answers)
        other = {name: count for name, count in self.answer_types.items() if name != "str"}
        yield f"non-string answers     {sum(other.values())}{_listed(f'{v} {k}' for k, v in other.items())}"
        yield from _counted("leading zeros", self.leading_zeros)
        yield f"duplicates             {self.duplicates} rows repeat the problem of an earlier one"
        yield from _counted("conflicting duplicates", ["=".join(names) for names in self.conflicting])
        yield f"scripts                {', '.join(f'{k} {v}' for k, v in self.scripts.most_common()) or 'none'}"


def load(
    data: str | Path, problem_field: str = "problem", answer_field: str = "answer", encoding: str = "utf-8"
) -> tuple[list[Row], Report]:
    """The readable rows of a file or dataset, and a report on it.

    Raises DataError for a file that is missing, empty or not a data file, and for fields that no row has.
    """
    rows, unreadable, faults, fields, types = [], [], [], Counter(), Counter()
    for (number, row, broken), fault in checked_rows(data, encoding, problem_field, answer_field):
        if fault:
            faults.append(f"line {number}: {fault}")
        if broken:
            unreadable.append(f"line {number}")
            continue
        fields.update(row.keys())
        text, answer = problem_text(row.get(problem_field)), row.get(answer_field)
        rows.append(Row(str(row.get("id", f"line {number}")), text, answer))
        types.update([] if is_empty(answer) else ["float" if isinstance(answer, Decimal) else type(answer).__name__])
    if not rows and not unreadable:
        raise DataError(f"{data}: the file is empty")
    if not rows:
        raise DataError(f"{data}: none of {len(unreadable)} rows can be read; {faults[0]}")
    for wanted in (problem_field, answer_field):
        if wanted not in fields:
            raise DataError(f"{data}: no row has a field {wanted!r}; there are: {', '.join(fields) or 'none'}")
    copies: dict[str, list[Row]] = {}
    for row in rows:
        copies.setdefault(exact_key(row.text), []).append(row)
    copies.pop("", None)
    return rows, Report(
        rows=len(rows),
        unreadable=unreadable,
        faults=faults,
        fields=fields,
        empty_problems=[row.name for row in rows if not row.text.strip()],
        empty_answers=[row.name for row in rows if is_empty(row.answer)],
        answer_types=types,
        leading_zeros=[row.name for row in rows if _LEADING_ZERO.fullmatch(str(row.answer).strip())],
        duplicates=sum(len(same) - 1 for same in copies.values()),
        conflicting=[[r.name for r in same] for same in copies.values() if len({_answer(r) for r in same}) > 1],
        scripts=Counter(script(row.text) for row in rows),
    )


def script(text: str) -> str:
    """`cjk` if one such character occurs (LaTeX outnumbers them), else the script of most letters, or `none` without
    any."""
    if _HAS_CJK.search(text):
        return "cjk"
    if text.isascii():
        return "latin" if re.search(r"[A-Za-z]", text) else "none"
    letters = Counter(unicodedata.name(c, "?").split()[0].lower() for c in text if c.isalpha())
    return letters.most_common(1)[0][0] if letters else "none"


def _answer(row: Row) -> str:
    return answer_text(row.answer) if isinstance(row.answer, str | int | float | Decimal) else repr(row.answer)


def _counted(label: str, names: list[str]) -> Iterable[str]:
    yield f"{label:22s} {len(names)}{_listed(names)}"


def _listed(items) -> str:
    items = list(items)
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f": {', '.join(items[:_SHOWN])}{more}" if items else ""


def _print(line: str) -> None:
    print(line.encode(errors="backslashreplace").decode())  # a lone surrogate cannot be printed


def main(argv: list[str]) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m dgpo data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    check = parser.add_subparsers(dest="command", required=True).add_parser(
        "check", help="report on a file", epilog=overlap.__doc__, formatter_class=parser.formatter_class
    )
    check.add_argument("file", metavar="FILE", help="a .jsonl, .json, .parquet or .csv file, or owner/name[:split]")
    check.add_argument("--against", nargs="+", default=[], metavar="TEST", help="files that FILE should not overlap")
    check.add_argument("--problem-field", default="problem")
    check.add_argument("--answer-field", default="answer")
    check.add_argument("--encoding", default="utf-8", help="of the files that are not UTF-8, such as cp1252 of Windows")
    check.add_argument("--pairs", action="store_true", help="list every matching pair")
    args = parser.parse_args(argv)
    reading = args.problem_field, args.answer_field, args.encoding
    rows, report = load(path_text(args.file), *reading)
    for line in [args.file, *report.lines()]:
        _print(line)
    for test in args.against:
        tests, _ = load(path_text(test), *reading)
        pairs = contamination(rows, tests, every=args.pairs)
        counts = ", ".join(f"{kind} {count}" for kind, count in matched(pairs).items())
        _print(f"in {test}: of {len(tests)} problems also here, each kind with the stricter ones: {counts}")
        for kind, name, row, share in sorted(pairs, key=lambda p: (KINDS.index(p[0]), p[1:])) if args.pairs else ():
            _print(f"  {kind:7s} {name}  {row}  {share:.0%}")
    return 0
