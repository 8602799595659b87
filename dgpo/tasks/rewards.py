"""Rewards of your own, in TRL's convention: f(prompts, completions, **columns) → a number or None for each completion.

    rewards = Rewards(["mymodule:short", "mymodule:polite"], weights=[1, 0.5], timeout=10)
    totals = rewards(prompts, completions, columns)         floats; None for a completion whose reward failed

A function with a parameter `completion_ids`, or with **columns, also gets the token ids of each completion.
The functions run in processes that can be killed, one completion at a time, with a time limit. A function that hangs,
raises or ends its process costs only that completion, which is counted and named; the share of failures has a limit.
What they print is dropped. A function may be async. None leaves a completion out of that function's reward.
"""

import json
import select
import subprocess
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import IO, Any

from dgpo import lifetimes
from dgpo.errors import ConfigError, Explained
from dgpo.progress import tell

_STARTING = 120.0  # seconds in which a worker imports the functions
_TOLERATED = 0.1  # share of the completions of one call whose reward may fail


class RewardError(Explained, RuntimeError):
    """Too many rewards failed; the message has the first reason."""

    exit_code = 3


class Rewards:
    """The weighted sum of the functions named `module:function`, from `workers` processes.

    means     (sum, count) of each function's values since the last call
    failed    completions whose reward failed so far

    Raises ConfigError for a function that cannot be imported and for weights that do not match.
    """

    def __init__(self, names: Sequence[str], weights: Sequence[float] = (), timeout: float = 10.0, workers: int = 2):
        if weights and len(weights) != len(names):
            raise ConfigError(f"reward_weights={list(weights)}: {len(weights)} weights for {len(names)} rewards")
        self.names, self.weights = list(names), list(weights) or [1.0] * len(names)
        self.timeout, self.failed = timeout, 0
        self._sums: defaultdict[Any, float] = defaultdict(float)
        self._workers = [_Worker(self.names) for _ in range(workers)]
        self._threads = ThreadPoolExecutor(workers)
        self._workers[0].start()  # names what cannot be imported before anything is sampled

    def __call__(
        self,
        prompts: Sequence,
        completions: Sequence,
        columns: Sequence[Mapping[str, Any]],
        completion_ids: Sequence[Sequence[int]] | None = None,
    ) -> list[float | None]:
        """The total reward of each completion, None if it failed; the sequences are parallel. Raises RewardError."""
        ids = completion_ids if completion_ids is not None else [None] * len(prompts)
        rows = [
            json.dumps({"prompt": p, "completion": c, "completion_ids": i, "columns": dict(more)}, default=as_json)
            for p, c, i, more in zip(prompts, completions, ids, columns, strict=True)
        ]
        parts = [rows[i :: len(self._workers)] for i in range(len(self._workers))]
        answers: list[Any] = [None] * len(rows)
        for i, part in enumerate(self._threads.map(self._ask_all, self._workers, parts)):
            answers[i :: len(self._workers)] = part
        faults = [answer for answer in answers if isinstance(answer, str)]
        self.failed += len(faults)
        if faults:
            tell(f"{len(faults)} of {len(rows)} rewards failed and count as 0; the first: {faults[0]}")
        if len(faults) > _TOLERATED * len(rows) and len(faults) > 1:
            raise RewardError(f"{len(faults)} of {len(rows)} rewards failed, the first: {faults[0]}")
        return [None if isinstance(answer, str) else self._total(answer) for answer in answers]

    def check(self, columns: Sequence[str], where: str) -> None:
        """Raise ConfigError if a function cannot be called with rows of these columns; `where` names such a row."""
        fault = self._workers[0].ask(json.dumps({"fit": list(columns)}), _STARTING)
        if isinstance(fault, str):
            there = ", ".join(map(repr, columns)) or "none"
            raise ConfigError(
                f"reward={fault.removeprefix('TypeError: ')}; {where} has the columns {there}, and a function gets "
                "prompts, completions, completion_ids and these (TRL's trainer_state, log_extra and log_metric never): "
                "add the column, or end its parameters with **columns"
            )

    def _ask_all(self, worker: "_Worker", rows: list[str]) -> list[list[float | None] | str]:
        return [worker.ask(row, self.timeout) for row in rows]

    def means(self) -> dict[str, tuple[float, int]]:
        """(sum, count) of each function's values since the last call, by its name, with the module if two share it."""
        short = [name.partition(":")[2] for name in self.names]
        found = {}
        for name, label in zip(self.names, short, strict=True):
            found[label if short.count(label) == 1 else name] = self._sums[name], int(self._sums[name, "count"])
        self._sums.clear()
        return found

    def _total(self, values: list[float | None]) -> float:
        for name, value in zip(self.names, values, strict=True):
            if value is not None:
                self._sums[name] += value
                self._sums[name, "count"] += 1
        return sum(w * v for w, v in zip(self.weights, values, strict=True) if v is not None)

    def close(self) -> None:
        """End the processes."""
        for worker in self._workers:
            worker.end()
        self._threads.shutdown()


def as_json(value: Any) -> float | str:
    """A fraction of a file as the number it is; anything else that JSON lacks, such as a date, as text."""
    return float(value) if isinstance(value, Decimal) else str(value)


class _Worker:
    """A process that answers a line of JSON with a line of JSON; see `reward_worker`."""

    def __init__(self, names: Sequence[str]):
        self.names = names
        self.process: subprocess.Popen | None = None
        self.stdin: IO[bytes]
        self.stdout: IO[bytes]

    def start(self) -> None:
        files: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = lifetimes.start("dgpo.tasks.reward_worker", *self.names, **files)
        self.stdin, self.stdout = lifetimes.pipes(self.process)
        said = self._line(_STARTING)
        if said != "ready":
            self.end()
            silent = "its import takes too long" if said is None else "its import ended the process"
            raise ConfigError(f"reward={', '.join(self.names)}: {said or silent}")

    def ask(self, row: str, timeout: float) -> list[float | None] | str:
        """The values of the functions, or why there are none."""
        if self.process is None:
            self.start()
        try:
            self.stdin.write(row.encode() + b"\n")
            self.stdin.flush()
            said = self._line(timeout)
        except BrokenPipeError:
            said = ""
        if said is None or not said:
            self.end()
            slow = f"it took more than reward_timeout={timeout:g} s, which can be raised"
            return slow if said is None else "it ended its process"
        answer = json.loads(said)
        return answer.get("error") or answer["values"]

    def _line(self, timeout: float) -> str | None:
        """The process's next line; "" if it has ended, None if none comes in time."""
        if not select.select([self.stdout], [], [], timeout)[0]:
            return None
        return self.stdout.readline().decode().strip()

    def end(self) -> None:
        if self.process is not None:
            lifetimes.end(self.process)
            self.stdin.close()
            self.stdout.close()
            self.process = None
