"""A judging process, which `pool.py` starts and talks to over its pipes.

The outer process imports math-verify once, then forks an inner one, which judges. If a hostile answer kills it, the
next is forked in milliseconds. A job that exceeds the inner process's own limits is judged `timeout`; a job whose
inner process was killed from outside is tried again. The kernel enforces the limits on CPU time and memory, even
inside long C calls, and a busy machine changes no verdict.

    stdin    a job a line: its number and a JSON array [function of judge.py, gold, answer]
    stdout   "ready" once, then for every job a line with its number and the verdict
"""

import gc
import json
import logging
import os
import resource
import signal
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from dgpo import lifetimes
from dgpo.verifier.answer import Verdict

TRIES = 3  # of one job whose inner process is killed from outside
_OUT_OF_MEMORY, _FULL = 3, 4  # exit codes: this job is too large; earlier ones left too much


def main(cpu_seconds: str, memory_mb: str) -> None:
    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from dgpo.verifier import judge  # imported here, after the limits are set

    judge.warm_up()
    gc.collect()
    gc.freeze()  # keep the pages that the forks share untouched
    _write("ready")
    inner = _Inner(judge, float(cpu_seconds), int(memory_mb))
    while line := _read_line():
        number, _, job = line.partition(b" ")
        _write(f"{number.decode()} {inner.verdict(job)}")


class _Inner:
    """The process that judges, forked when it is needed."""

    def __init__(self, *arguments):
        self._arguments, self._pid = arguments, 0
        self._pipe: Connection

    def verdict(self, job: bytes) -> str:
        for _ in range(TRIES):
            if not self._pid:
                self._fork()
            try:
                self._pipe.send_bytes(job)
                return self._pipe.recv_bytes().decode()
            except (EOFError, ConnectionError):  # it is gone
                self._pipe.close()
                code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
                self._pid = 0
                if code in (_OUT_OF_MEMORY, -signal.SIGPROF):
                    break
        return Verdict.timeout

    def _fork(self) -> None:
        self._pipe, theirs = Pipe()
        outer, self._pid = os.getpid(), os.fork()
        if self._pid == 0:
            try:
                self._pipe.close()
                _leave_our_pipes()
                lifetimes.end_with(outer)
                _serve(theirs, *self._arguments)
            finally:  # never return into the outer process's code
                os._exit(1)
        theirs.close()


def _leave_our_pipes() -> None:
    """Without this, the pool would not see the outer process end while this one lives."""
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)


def _serve(pipe: Connection, judge, cpu_seconds: float, memory_mb: int) -> None:
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the default action ends the process
    limit, fresh = memory_mb * 2**20, _peak_mb()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    while True:
        job = pipe.recv_bytes()
        signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
        try:
            how, gold, answer = json.loads(job)
            verdict = (judge.plain if how == "plain" else judge.judge)(gold, answer)
        except MemoryError:
            os._exit(_OUT_OF_MEMORY)
        except Exception:  # noqa: BLE001 (sympy raises anything on odd input)
            verdict = Verdict.unparsed
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send_bytes(verdict.encode())
        if _peak_mb() - fresh > memory_mb / 4:
            os._exit(_FULL)  # what this answer left behind must not starve the next


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _read_line() -> bytes:
    """One line of stdin. There is only one at a time: the next job comes after this one's verdict."""
    parts = []
    while part := os.read(0, 65536):
        parts.append(part)
        if part.endswith(b"\n"):
            break
    return b"".join(parts)


def _write(line: str) -> None:
    os.write(1, line.encode() + b"\n")
