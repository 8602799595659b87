"""Waiting for what a test needs to happen, and looking after processes."""

import os
import signal
import time
from pathlib import Path

WATCHDOG = 300  # seconds; no test needs a fraction of it, however busy the machine: only one that hangs ends by it


def until(happens, what: str):
    """Wait until `happens()` is true and return what it returned."""
    began = time.monotonic()
    while not (found := happens()):
        assert time.monotonic() - began < WATCHDOG, f"not within {WATCHDOG} s: {what}"
        time.sleep(0.005)
    return found


def proc(path: str) -> str:
    """A file of /proc, empty where its process or thread has ended meanwhile."""
    try:
        return Path("/proc", path).read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> set[int]:
    """The processes below `pid`, by id."""
    found, todo = set(), [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            new = {int(child) for child in proc(str(task)).split()}
            found, todo = found | new, [*todo, *new]
    return found


def runs(pid: int) -> bool:
    """Whether a process is there; one that is dead but not yet collected has ended."""
    stat = proc(f"{pid}/stat")
    return bool(stat) and stat.rpartition(")")[2].split()[0] not in "ZX"


def until_gone(pids) -> None:
    until(lambda: not any(map(runs, pids)), f"the end of the processes {sorted(pids)}")


def ignores_ctrl_c(pid: int) -> bool:
    """Whether a process has come so far: ours do that next after seeing to it that they end with their parent."""
    status = proc(f"{pid}/status")
    if not status:
        return False
    ignored = next(line for line in status.splitlines() if line.startswith("SigIgn"))
    return bool(int(ignored.split()[1], 16) >> signal.SIGINT - 1 & 1)


def stopped(pids) -> set[int]:
    """Stop processes, so that they can do nothing about their end themselves, and return them."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    return set(pids)
