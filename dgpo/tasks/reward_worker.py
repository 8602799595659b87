"""The process in which rewards run: a line of JSON in, a line of JSON out; see `dgpo.tasks.rewards`."""

import asyncio
import inspect
import json
import math
import os
import sys
from collections.abc import Awaitable

from dgpo.errors import one_line
from dgpo.plain import locate, plain


def main(*names: str) -> int:
    """Answer rows {prompt, completion, completion_ids, columns} with {values} or {error} until standard input ends.

    {fit: columns} asks whether every function can be called with these columns; {error} says which cannot.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    rows = os.fdopen(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a function prints is not an answer
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # and what it or its children read is not a row
    sys.path[:0] = [os.getcwd()]
    try:
        functions = [_function(name) for name in names]
    except Exception as error:  # noqa: BLE001 (the user's code; the parent says it)
        print(one_line(error), file=answers)
        return 1
    print("ready", file=answers)
    for line in rows:
        row, values, name = json.loads(line), [], ""
        try:
            for name, function in zip(names, functions, strict=True):
                values.append(fit(name, function, row["fit"]) if "fit" in row else value(function, row))
            answer = {"values": values}
        except Exception as error:  # noqa: BLE001 (the user's code; the parent counts it)
            said = one_line(error)
            answer = {"error": said if "fit" in row else f"{name}: {said}"}
        print(json.dumps(answer), file=answers)
    return 0


def fit(name: str, function, columns: list[str]) -> None:
    """Raise TypeError that names the function and the argument if it cannot be called with rows of these columns."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # of a function that is not Python's
        return
    ids = {"completion_ids": []} if _reads_ids(function) else {}
    try:
        signature.bind(prompts=[], completions=[], **ids, **dict.fromkeys(columns))
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def _reads_ids(function) -> bool:
    """Whether a function takes completion_ids; one that names neither them nor **columns is called without."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:
        return False
    return "completion_ids" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def value(function, row: dict) -> float | None:
    """A function's reward of one completion. Raises ValueError unless it is a finite number or None."""
    columns = {name: [content] for name, content in row["columns"].items()}
    if row["completion_ids"] is not None and _reads_ids(function):
        columns["completion_ids"] = [row["completion_ids"]]
    found = function(prompts=[row["prompt"]], completions=[row["completion"]], **columns)
    found = plain(asyncio.run(_wait(found)) if inspect.isawaitable(found) else found)
    name = getattr(function, "__name__", repr(function))
    if not isinstance(found, list) or len(found) != 1:
        raise ValueError(f"{name} returned {found!r} for one completion; expected a list of one number or None")
    number = found[0]
    if number is not None and (not isinstance(number, bool | int | float) or not math.isfinite(number)):
        raise ValueError(f"{name} returned {number!r}; expected a finite number or None")
    return None if number is None else float(number)


async def _wait(found: Awaitable):
    return await found


def _function(name: str):
    found = locate(name)
    if not callable(found):
        raise TypeError(f"{name} is {type(found).__name__}, not a function")
    return found
