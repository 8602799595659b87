"""Follows the ranks that a launcher starts: progress from metrics.jsonl, their end, the error of the failed rank."""

import contextlib
import re
import signal
import subprocess
import time
from pathlib import Path
from typing import Protocol

from dgpo import errors, lifetimes
from dgpo.config import Config, ConfigError
from dgpo.errors import Explained
from dgpo.launch.launchers import Torchrun
from dgpo.progress import Progress
from dgpo.run.rows import read_rows

_LOOK = 1.0  # seconds between two reads of the metrics


class LaunchError(Explained, RuntimeError):
    """A rank failed: its message, and its `exit_code`."""

    def __init__(self, said: str, code: int):
        super().__init__(said)
        self.exit_code = code


class Shown(Protocol):
    """What is shown while the ranks work: a progress line, and the call that brings it up to date."""

    progress: Progress

    def show(self) -> None: ...


def follow(launcher: Torchrun, settings: Path, log: Path, shown: Shown) -> None:
    """Start the ranks, show their progress and wait for their end. An exception here, such as Ctrl-C, ends them first.

    The output of the ranks is appended to `log`. Raises LaunchError.
    """
    begun = log.stat().st_size if log.exists() else 0
    with log.open("ab") as file:
        output = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
        process = lifetimes.start_program(launcher.command(settings, log), env=launcher.environment(), **output)
    try:
        with shown.progress:
            while not _ended(process):
                shown.show()
            shown.show()
    finally:
        if process.returncode is None:
            launcher.stop(process)
    if code := process.wait():
        said, code = failure(log.read_bytes()[begun:].decode(errors="replace"), code)
        raise LaunchError(f"{said}; what the ranks printed: {log}", code)


class Steps:
    """Shows the steps that other processes make, from the rows that they append; `made` were made before."""

    def __init__(self, config: Config, made: int):
        self.path, self.held_out = Path(config.run_dir) / "metrics.jsonl", f"eval/avg@{config.eval_samples}"
        self.progress, self.made, self.latest = Progress(made, config.steps), made, None
        self.looked = self.before = self._changed()

    def show(self) -> None:
        if (changed := self._changed()) == self.looked:  # rows that an earlier start left do not count
            return
        if self.looked == self.before:  # the ranks have finished loading, which is not part of a step's time
            self.progress.began = time.monotonic()
        self.looked = changed
        with contextlib.suppress(ConfigError, OSError):  # damaged rows: the ranks report them
            for row in read_rows(self.path):
                self.latest = row.get(self.held_out, self.latest)
                if row["step"] > self.made:
                    self.made = row["step"]
                    self.progress.update(self.made, reward=row.get("reward/mean"), **{"held-out": self.latest})

    def _changed(self) -> tuple[int, int] | None:
        with contextlib.suppress(OSError):
            found = self.path.stat()
            return found.st_ino, found.st_mtime_ns
        return None


def failure(said: str, code: int) -> tuple[str, int]:
    """(one line, exit code) from the output of the ranks and of a launcher that ended with `code`.

    The rank that failed first, even by a bug, says more than the ranks that lost it, and these say more than the
    launcher.
    """
    rank, own = _root_cause(said)
    told = re.findall(r"^error: (.*)", said, re.M)
    lost = [line for line in told if re.match(r"rank \d+ of \d+ on ", line)]
    first = [line for line in told if line not in lost]
    raised = re.findall(r"^(?:\[rank\d+\]: ?)?[\w.]*(?:Error|Exception)\b.*", said, re.M)
    raised = [line for line in raised if not line.startswith("torch.distributed.elastic")][-1:]  # after its causes
    slurm = re.findall(r"^(?:sbatch|srun|slurmstepd): error: .*", said, re.M)
    if not first and own is not None and own < 0:
        first = [f"{rank} was killed by {_signal(-own)}{' (out of memory?)' * (own == -signal.SIGKILL)}"]
    line = next(iter(first + raised + lost + slurm + said.strip().splitlines()[-1:]), "nothing was printed")
    known = own if own in (errors.MISTAKE, errors.DIVERGED) else errors.FAILED
    return (line if line in told + first else f"the launcher ended with exit code {code}: {line}"), known


def _root_cause(said: str) -> tuple[str, int | None]:
    """The rank that failed first and its exit code, as torchrun or deepspeed reports them."""
    report = said.rpartition("Root Cause")[2]
    if found := re.search(r"rank\s*: (\d+).*?exitcode\s*: (-?\d+)", report, re.S):
        return f"rank {found[1]}", int(found[2])
    found = re.search(r"exits with return code = (-?\d+)", said)
    return "a rank", int(found[1]) if found else None


def _signal(number: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(number).name
    return f"signal {number}"


def _ended(process: subprocess.Popen) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_LOOK)
    return process.returncode is not None
