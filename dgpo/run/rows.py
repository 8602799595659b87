"""The rows of `metrics.jsonl` and `completions.jsonl`, one a line; a kill can cut off the last one."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dgpo.errors import ConfigError


class History(NamedTuple):
    """The metrics up to a step: the row of each step that has one, in order; the steps without one; the faults."""

    rows: list[dict]
    missing: list[int]
    faults: list[str]


def read_rows(path: Path) -> list[dict]:
    """The rows of a file. A last line cut off by a kill is left out.

    Raises ConfigError that names a line which is not a row, or a missing file.
    """
    if not path.exists():
        raise ConfigError(f"{path} is missing")
    rows = []
    for line, row in _lines(path):
        if isinstance(row, str):
            raise ConfigError(f"{path}, line {line} {row}")
        rows.append(row)
    return rows


def read_metrics(folder: Path) -> list[dict]:
    """The rows of a run's metrics without wall times, the only ones in which two identical runs differ."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith("seconds/")} for row in rows]


def append(path: Path, rows: Iterable[dict]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def history(path: Path, step: int, lost: Iterable[int] = ()) -> History:
    """The metrics of steps 0 … `step`. Each should occur once, in order, except those known to be `lost`.

    Lines after the row of `step` do not count: a resumed run makes them again.
    """
    lines, last = _lines(path), 0
    expected = [s for s in range(step + 1) if s not in {*lost}]
    found = dict.fromkeys(expected)
    for place, (_, row) in enumerate(lines, 1):
        if isinstance(row, dict) and row["step"] in found:
            found[row["step"]], last = row, place
    missing = [s for s, row in found.items() if row is None]
    if not missing:  # else any later line may be one of the missing
        lines = lines[:last] if found else []
    steps = [row["step"] for _, row in lines if isinstance(row, dict)]
    faults = [f"line {number} {row}" for number, row in lines if isinstance(row, str)]
    faults += [f"step {s} has {n} rows" for s, n in Counter(steps).items() if n > 1]
    if missing:
        faults.append(f"no row of {'step' if len(missing) == 1 else 'steps'} {_ranges(missing)}")
    elif not faults and steps != expected:
        place = next(i for i, s in enumerate(steps) if i >= len(expected) or s != expected[i])
        faults.append(f"the row of step {steps[place]} is out of place")
    return History([row for row in found.values() if row], missing, faults)


def readable(path: Path, step: int) -> tuple[list[dict], list[int]]:
    """The rows of steps up to `step`, and the numbers of the lines that are not rows."""
    lines = _lines(path)
    rows = [row for _, row in lines if isinstance(row, dict) and row["step"] <= step]
    return rows, [number for number, row in lines if isinstance(row, str)]


def _lines(path: Path) -> list[tuple[int, dict | str]]:
    """The number of each whole line, and its row or its fault; an empty list for a missing file."""
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # the rest was cut off
    return [*enumerate(map(_row, whole), 1)]


def _row(line: bytes) -> dict | str:
    try:
        row = json.loads(line.decode())
    except (ValueError, RecursionError) as error:  # errors of JSON and UTF-8 are ValueErrors
        return f"is damaged: {error}"
    if not (isinstance(row, dict) and type(row.get("step")) is int):
        return "is damaged: it has no step"
    return row


def _ranges(numbers: list[int]) -> str:
    """`1, 4–6`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join("–".join(map(str, part)) for part in parts)
