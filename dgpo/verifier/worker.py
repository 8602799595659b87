"""A judging process: `python -m dgpo.verifier.worker CPU_SECONDS MEMORY_MB`, talked to over its pipes by `pool.py`.

Two processes. The outer one imports math-verify once and warms it up, then forks the inner one, which judges; when
that one dies of a hostile answer, the next is forked in milliseconds instead of imported in a second.

    stdin    one JSON array a line: ["judge" or "plain", gold, answer], names of functions in judge.py
    stdout   "ready" once, then one line for every pair: a verdict, or "died" when judging it killed the inner process

The inner process is under a timer and a memory limit that the kernel enforces, also inside long C calls: nothing here
relies on Python getting a turn. The timer counts the CPU time of this process, so a busy machine changes no verdict.
"""

import gc
import json
import logging
import os
import resource
import select
import signal
import sys

from dgpo.verifier.answer import Verdict

_REPLACE = 3  # the exit status by which the inner process asks for a fresh one


def main(cpu_seconds: float, memory_mb: int) -> None:
    logging.disable(logging.CRITICAL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when we end
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from dgpo.verifier import judge  # here, because the limits come first

    judge.warm_up()
    gc.collect()
    gc.freeze()  # keep the pages that the forks share untouched
    _write("ready")
    while True:
        alive, held = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(alive)
            _serve(judge, cpu_seconds, memory_mb)
            os._exit(0)
        os.close(held)
        _wait(alive, child)
        os.close(alive)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status == 0:
            return  # the parent closed our stdin
        if status != _REPLACE:
            _write("died")


def _serve(judge, cpu_seconds: float, memory_mb: int) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default action ends the process
    limit, fresh = memory_mb * 2**20, _peak_mb()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while line := _read_line():
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            how, gold, answer = json.loads(line)
            verdict = (judge.plain if how == "plain" else judge.judge)(gold, answer)
        except MemoryError:
            os._exit(1)
        except Exception:  # noqa: BLE001 (there is nothing that sympy does not raise on odd input)
            verdict = Verdict.unparsed
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(verdict)
        if _peak_mb() - fresh > memory_mb / 4:
            os._exit(_REPLACE)  # what this answer left behind must not starve the next


def _wait(alive: int, child: int) -> None:
    """Until the child is gone. Ends both when our own parent is gone, whatever the child is busy with."""
    parent = os.getppid()
    while not select.select([alive], [], [], 1.0)[0]:
        if os.getppid() != parent:
            os.kill(child, signal.SIGKILL)
            os._exit(0)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _read_line() -> bytes:
    """One line, unbuffered: a byte read ahead would be lost with the process."""
    parts = []
    while part := os.read(0, 65536):  # the parent sends a line only after the last one's answer
        parts.append(part)
        if part.endswith(b"\n"):
            break
    return b"".join(parts)


def _write(line: str) -> None:
    os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
