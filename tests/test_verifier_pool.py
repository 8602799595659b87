"""The processes that judge: hostile answers stall nothing, and no worker is left behind."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from verifier_cases import boxed

from dgpo.verifier import Verdict, Verifier, VerifierError, verify

HOSTILE = [
    "9^{9^{9^{9}}}",
    "10^9!",
    "(10^9)!",
    "9!!!!!!",
    "2^{10^9}",
    "1+" * 50_000 + "1",
    "1+" * 900 + "1",
    "{" * 5_000,
    "(" * 1_900,
    r"\frac{1}{" * 300 + "2" + "}" * 300,
    r"\frac{1}{1+" * 30 + "2" + "}" * 30,
    r"\sqrt{" * 35 + "2" + "}" * 35,
    "x^{" * 30 + "2" + "}" * 30,
    r"\sum_{k=1}^{10^9} \sin k",
    r"\int_0^1 e^{x^{x^x}} dx",
    r"\binom{10^9}{5 \cdot 10^8}",
    "e^{e^{e^{e^{e}}}}",
    "x" * 1_900,
    "9" * 1_900 + "!",
    r"\pm 1" * 40,
    r"\boxed{" * 2_000,
    "^" * 1_000 + "5",
]


def workers_of(pid):
    """The processes below `pid`, by id."""
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            children = [int(c) for c in task.read_text().split()]
            found, todo = found + children, todo + children
    return found


def gone(pids, seconds=5.0):
    """Whether all processes end within the time; one that is dead but not yet collected has ended."""
    deadline = time.monotonic() + seconds
    while alive := [p for p in pids if _runs(p)]:
        if time.monotonic() > deadline:
            return not alive
        time.sleep(0.05)
    return True


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_hostile_answers_stall_nothing_and_leave_the_honest_ones_alone(verifier):
    honest = [
        (rf"\frac{{{k}}}{{7}}+\sqrt{{2}}", boxed(rf"\sqrt{{2}}+\frac{{{k + k % 2}}}{{7}}")) for k in range(1, 200)
    ]
    expected = [Verdict.wrong if k % 2 else Verdict.correct for k in range(1, 200)]
    assert verifier.verify_many(honest) == expected
    hostile = [("12345", rf"\boxed{{{answer}}}") for answer in HOSTILE]
    mixed = list(enumerate(honest + hostile))
    random.Random(0).shuffle(mixed)
    started = time.monotonic()
    verdicts = dict(zip([i for i, _ in mixed], verifier.verify_many(pair for _, pair in mixed), strict=True))
    assert time.monotonic() - started < 30
    assert [verdicts[i] for i in range(len(honest))] == expected
    allowed = {Verdict.timeout, Verdict.unparsed, Verdict.wrong}
    for i, answer in enumerate(HOSTILE, start=len(honest)):
        assert verdicts[i] in allowed | ({Verdict.no_answer} if answer.startswith(r"\boxed") else set()), answer[:40]


def test_memory_of_a_worker_is_limited():
    before = set(workers_of(os.getpid()))
    hungry = r"\begin{pmatrix}" + r" \\ ".join(["1 & 2 & 3 & 4"] * 4) + r"\end{pmatrix}^{9^9}"
    with Verifier(workers=1, memory_mb=400) as pool:
        assert pool.verify("1", boxed(hungry)) in (Verdict.timeout, Verdict.unparsed, Verdict.wrong)
        assert pool.verify("x+1", boxed("1+x")) == Verdict.correct
        for pid in set(workers_of(os.getpid())) - before:
            status = Path(f"/proc/{pid}/status").read_text()
            peak = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
            assert sum(peak) < 400 * 1024


def test_workers_start_when_needed_and_are_gone_after_close():
    before = set(workers_of(os.getpid()))
    pool = Verifier(workers=2)
    assert pool.verify("5", boxed("5")) == Verdict.correct
    assert set(workers_of(os.getpid())) == before, "an integer needs no worker"
    pool.verify_many([("x", boxed("y+1")), ("x", boxed("y+2"))])
    started = set(workers_of(os.getpid())) - before
    assert started
    pool.close()
    pool.close()
    assert gone(started)
    with pytest.raises(VerifierError, match="closed"):
        pool.verify("x", boxed("y"))


def test_an_exception_in_the_block_leaves_no_worker():
    before, started = set(workers_of(os.getpid())), set()

    def work():
        with Verifier(workers=1) as pool:
            pool.verify("x", boxed("y"))
            started.update(set(workers_of(os.getpid())) - before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert started
    assert gone(started)


def test_a_killed_worker_is_replaced():
    before = set(workers_of(os.getpid()))
    with Verifier(workers=1) as pool:
        pool.verify("x", boxed("y"))
        for pid in set(workers_of(os.getpid())) - before:
            os.kill(pid, signal.SIGKILL)
        assert pool.verify_many([("x", boxed("y+1")), ("x+1", boxed("1+x"))]) == [Verdict.wrong, Verdict.correct]


def test_the_parent_kills_a_worker_that_does_not_answer(monkeypatch):
    before = set(workers_of(os.getpid()))
    with Verifier(workers=1, timeout=0.1) as pool:
        pool.verify("x", boxed("y"))
        monkeypatch.setattr("dgpo.verifier.pool._PATIENCE", 0.5)
        for pid in set(workers_of(os.getpid())) - before:
            os.kill(pid, signal.SIGSTOP)
        assert pool.verify("x+1", boxed("1+x")) == Verdict.timeout
        monkeypatch.undo()
        assert pool.verify("x+1", boxed("1+x")) == Verdict.correct


def test_a_worker_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Verifier(workers=1) as pool, pytest.raises(VerifierError, match="did not start"):
        pool.verify("x", boxed("y"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_its_parent(how):
    code = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits that it is ignored
        "from dgpo.verifier import Verifier\n"
        "v = Verifier(workers=1, timeout=60)\n"
        "v.verify('x', r'\\boxed{y}')\n"
        "print('up', flush=True)\n"
        "v.verify(r'\\int_0^1 e^{x^{x^x}} dx', r'\\boxed{\\int_0^2 e^{x^{x^x}} dx}')\n"  # takes for ever
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as parent:
        assert parent.stdout.readline() == b"up\n"
        time.sleep(0.3)
        workers = workers_of(parent.pid)
        assert len(workers) == 2
        parent.send_signal(how)
        assert gone(workers)


def test_works_from_threads_and_takes_turns(verifier):
    found = {}

    def work(k):
        found[k] = verifier.verify_many([(f"x+{k}", boxed(f"{k}+x")), (f"x+{k}", boxed(f"{k + 1}+x"))] * 3)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert found == {k: [Verdict.correct, Verdict.wrong] * 3 for k in range(4)}


def test_verdicts_are_counted_and_equal_pairs_cost_one():
    with Verifier(workers=1) as pool:
        pool.verify_many([("x", boxed("y"))] * 5 + [("5", boxed("5"))] * 2 + [("5", "5")])
        assert pool.counts == {Verdict.wrong: 5, Verdict.correct: 2, Verdict.no_answer: 1}


def test_starting_a_worker_imports_neither_torch_nor_transformers():
    code = "import sys, dgpo.verifier.worker, dgpo.verifier.judge; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("setting", [{"workers": 0}, {"timeout": 0}, {"memory_mb": 1}])
def test_settings_out_of_range(setting):
    with pytest.raises(ValueError, match=f"{next(iter(setting))}=.* must be at least"):
        Verifier(**setting)


def test_what_is_no_string_is_refused(verifier):
    with pytest.raises(TypeError, match="not int and str"):
        verifier.verify(5, boxed("5"))


def test_the_function_verifies_too():
    assert verify(r"\frac{1}{2}", boxed("0.5")) == Verdict.correct
    assert verify("x+1", boxed("1+x")) == "correct"
