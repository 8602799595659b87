"""The parent's side of the workers: start, feed and kill them."""

import atexit
import contextlib
import json
import os
import selectors
import subprocess
import tempfile
import threading
import time
import weakref
from collections import Counter, deque
from collections.abc import Iterable

from dgpo import lifetimes
from dgpo.verifier import literals, notation
from dgpo.verifier.answer import MAX_ANSWER, Verdict, final_answer
from dgpo.verifier.worker import TRIES

_START_SECONDS = 120.0  # time to import math-verify on a busy machine
_PATIENCE = 10.0  # seconds beyond ten times its CPU limit before a silent worker is killed
_WORKER = "dgpo.verifier.worker"


class VerifierError(RuntimeError):
    """The workers do not start, or the verifier is closed."""


class Verifier:
    """Judges completions in `workers` processes, which start when first needed.

    timeout     CPU seconds for one answer; a slower one is judged `timeout`
    memory_mb   address space of one worker
    counts      verdicts given so far

    Use it as a context manager or call `close`. It works from any thread (calls take turns) and after a fork.
    """

    def __init__(self, workers: int = 2, timeout: float = 1.0, memory_mb: int = 512):
        for name, value, least in (("workers", workers, 1), ("timeout", timeout, 0.05), ("memory_mb", memory_mb, 256)):
            if not value >= least:
                raise ValueError(f"Verifier: {name}={value!r} must be at least {least}")
        self.workers, self.timeout, self.memory_mb = workers, timeout, memory_mb
        self.counts: Counter[Verdict] = Counter()
        self._closed = False
        self._begin()
        _made.add(self)

    def verify(self, gold: str, completion: str) -> Verdict:
        """The verdict on one completion."""
        return self.verify_many([(gold, completion)])[0]

    def verify_many(self, pairs: Iterable[tuple[str, str]]) -> list[Verdict]:
        """The verdicts on (gold, completion) pairs, in their order.

        Raises VerifierError if a worker does not start or the verifier is closed, TypeError for anything but strings,
        ValueError for a reference of more than MAX_ANSWER characters.
        """
        quick = [_without_worker(gold, completion) for gold, completion in pairs]
        slow = [job for job in quick if isinstance(job, tuple)]
        judged = self._judge(slow)
        verdicts = [judged[job] if isinstance(job, tuple) else job for job in quick]
        with self._lock:
            self.counts.update(verdicts)
        return verdicts

    def plain(self, pairs: Iterable[tuple[str, str]]) -> list[Verdict]:
        """Verdicts of math-verify alone on (gold, completion) pairs, within the same limits; they are not counted."""
        jobs = [("plain", gold, final_answer(completion)) for gold, completion in pairs]
        judged = self._judge([job for job in jobs if job[2]])
        return [judged[job] if job[2] else Verdict.no_answer for job in jobs]

    def close(self) -> None:
        """End the workers. Closing twice is fine; later calls and calls in other threads raise VerifierError."""
        self._closed = True
        with self._lock:
            self._stop()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def __del__(self):
        if hasattr(self, "_pool"):
            self._stop()

    def _begin(self):
        """Start without workers. A forked child starts here too: its copy of the lock may be held for ever."""
        self._pool: list[_Worker] = []
        self._lock = threading.RLock()

    def _stop(self):
        for worker in self._pool:
            worker.kill()
        self._pool = []

    def _judge(self, jobs: list[tuple]) -> dict[tuple, Verdict]:
        jobs = list(dict.fromkeys(jobs))  # equal pairs are judged once
        with self._lock:
            self._check_open()
            if not jobs:
                return {}
            while len(self._pool) < min(self.workers, len(jobs)):
                self._pool.append(_Worker(self.timeout, self.memory_mb))
            try:
                return self._run(jobs)
            except BaseException:  # KeyboardInterrupt too
                self._stop()  # verdicts still in the pipe must not pass for those of the next call
                raise

    def _check_open(self):
        if self._closed:
            raise VerifierError("this Verifier is closed")

    def _run(self, jobs) -> dict[tuple, Verdict]:
        todo, done, tries = deque(jobs), {}, Counter()
        with selectors.DefaultSelector() as selector:
            for worker in self._pool:
                selector.register(worker.stdout, selectors.EVENT_READ, worker)
                worker.next_job(todo)
            while len(done) < len(jobs):
                ready = {key.data for key, _ in selector.select(timeout=0.5)}
                self._check_open()
                for worker in self._pool:
                    line = worker.read() if worker in ready else ""
                    if line == "ready":
                        worker.started = True
                    elif line:
                        number, _, verdict = line.partition(" ")
                        if worker.job and int(number) == worker.number:
                            done[worker.job] = Verdict(verdict)
                            worker.job = None
                    elif worker in ready or worker.overdue():  # gone, or stuck beyond its own limits
                        lost = worker.job or worker
                        tries[lost] += 1
                        again = worker in ready and tries[lost] < TRIES  # killed from outside: not the job's fault
                        if not worker.started and not again:
                            raise VerifierError(f"a verifier worker did not start: {worker.complaint()}")
                        if worker.job and again:
                            todo.append(worker.job)
                        elif worker.job:
                            done[worker.job] = Verdict.timeout
                        selector.unregister(worker.stdout)
                        worker.restart()
                        selector.register(worker.stdout, selectors.EVENT_READ, worker)
                    worker.next_job(todo)
        return done


class _Worker:
    """One worker process and its current job. Jobs are numbered, so that no verdict is taken for another job's."""

    def __init__(self, timeout: float, memory_mb: int):
        self.timeout, self.memory_mb, self.number = timeout, memory_mb, 0
        self._start()

    def _start(self):
        self.started, self.job, self.deadline = False, None, time.monotonic() + _START_SECONDS
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (open as long as the process)
        self._process = lifetimes.start(
            _WORKER,
            str(self.timeout),
            str(self.memory_mb),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            bufsize=0,
            env={**os.environ, "PYTHONSAFEPATH": "1"},  # ignore a sympy.py in the current folder
        )
        self._stdin, self.stdout = lifetimes.pipes(self._process)

    def next_job(self, todo: deque) -> None:
        """Send the next pair if this worker is free."""
        if self.job is None and self.started and todo:
            self.job, self.number = todo.popleft(), self.number + 1
            self.deadline = time.monotonic() + 10 * self.timeout + _PATIENCE
            with contextlib.suppress(BrokenPipeError):  # gone: the next read shows it
                self._stdin.write(f"{self.number} {json.dumps(self.job)}\n".encode())

    def read(self) -> str:
        """The line that it wrote; empty once it is gone."""
        return self.stdout.readline().decode().strip()

    def overdue(self) -> bool:
        return (self.job is not None or not self.started) and time.monotonic() > self.deadline

    def complaint(self) -> str:
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace").strip()[-2000:] or f"no answer in {_START_SECONDS:g} s"

    def restart(self) -> None:
        self.kill()
        self._start()

    def kill(self) -> None:
        lifetimes.end(self._process)
        for file in (self._stdin, self.stdout, self._stderr):
            file.close()


def _without_worker(gold: str, completion: str) -> Verdict | tuple[str, str, str]:
    """The verdict if no worker is needed for it, else the job for a worker."""
    if not isinstance(gold, str) or not isinstance(completion, str):
        raise TypeError(f"verify needs strings, not {type(gold).__name__} and {type(completion).__name__}")
    if len(gold) > MAX_ANSWER:
        raise ValueError(f"a reference has {len(gold)} characters; at most {MAX_ANSWER} are read: {gold[:20]}...")
    answer = final_answer(completion)
    if not answer:
        return Verdict.no_answer
    if len(answer) > MAX_ANSWER:
        return Verdict.unparsed
    gold, answer = notation.normalise(gold), notation.normalise(answer)
    if not answer:
        return Verdict.no_answer
    if gold == answer:
        return Verdict.correct
    equal = literals.equal(gold, answer)
    if equal is not None:
        return Verdict.correct if equal else Verdict.wrong
    if notation.hopeless(answer):
        return Verdict.unparsed
    return "judge", gold, answer


_made: weakref.WeakSet[Verifier] = weakref.WeakSet()
_shared: Verifier | None = None


def _begin_anew() -> None:
    for verifier in list(_made):
        verifier._begin()


os.register_at_fork(after_in_child=_begin_anew)


def verify(gold: str, completion: str) -> Verdict:
    """The verdict on one completion, from one worker that lives as long as this process."""
    global _shared
    if _shared is None:
        _shared = Verifier(workers=1)
        atexit.register(_shared.close)
    return _shared.verify(gold, completion)
