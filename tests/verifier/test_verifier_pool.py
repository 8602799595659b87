"""The processes that judge: hostile answers stall nothing, a kill changes no verdict, and no worker is left behind."""

import asyncio
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from verifier_cases import boxed
from watching import WATCHDOG, children, proc, until, until_gone

from dgpo.verifier import Verdict, Verifier, VerifierError, pool, verify

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


@pytest.fixture
def stub(monkeypatch, tmp_path):
    """Workers as in stub_worker.py, which cost a tenth of a second each. Returns the folder of their files."""
    monkeypatch.setattr(pool, "_WORKER", "stub_worker")
    monkeypatch.setattr(pool, "_shared", None)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("STUB", str(tmp_path))
    yield tmp_path
    if pool._shared:
        pool._shared.close()


RIGHT, WRONG = ("x+1", boxed("1+x")), ("x+1", boxed("2+x"))


def judge_meanwhile(verifier, folder, then, name="h1"):
    """The verdict on a right answer that keeps the judge busy until `then()` was called."""
    found = []
    thread = threading.Thread(target=lambda: found.append(verifier.verify(f"{name}+x", boxed(f"x+{name}"))))
    thread.start()
    until((folder / f"{name}.judging").exists, "that a worker judges")
    then()
    (folder / f"{name}.go").touch()
    thread.join()
    return found[0]


def outer_of(verifier):
    return verifier._pool[0]._process.pid


def inner_of(verifier):
    (pid,) = children(outer_of(verifier))
    return pid


def test_hostile_answers_stall_nothing_and_leave_the_honest_ones_alone(verifier):
    honest = [
        (rf"\frac{{{k}}}{{7}}+\sqrt{{2}}", boxed(rf"\sqrt{{2}}+\frac{{{k + k % 2}}}{{7}}")) for k in range(1, 200)
    ]
    expected = [Verdict.wrong if k % 2 else Verdict.correct for k in range(1, 200)]
    assert verifier.verify_many(honest) == expected
    hostile = [("12345", rf"\boxed{{{answer}}}") for answer in HOSTILE]
    mixed = list(enumerate(honest + hostile))
    random.Random(0).shuffle(mixed)
    before = [worker._process.pid for worker in verifier._pool]
    verdicts = dict(zip([i for i, _ in mixed], verifier.verify_many(pair for _, pair in mixed), strict=True))
    # none was so long without a word that the pool had to end it: the limits of CPU time and memory see to that
    assert [worker._process.pid for worker in verifier._pool] == before
    assert [verdicts[i] for i in range(len(honest))] == expected
    allowed = {Verdict.timeout, Verdict.unparsed, Verdict.wrong}
    for i, answer in enumerate(HOSTILE, start=len(honest)):
        assert verdicts[i] in allowed | ({Verdict.no_answer} if answer.startswith(r"\boxed") else set()), answer[:40]


def test_memory_of_a_worker_is_limited():
    before = children(os.getpid())
    hungry = r"\begin{pmatrix}" + r" \\ ".join(["1 & 2 & 3 & 4"] * 4) + r"\end{pmatrix}^{9^9}"
    with Verifier(workers=1, memory_mb=400) as pool:
        assert pool.verify("1", boxed(hungry)) in (Verdict.timeout, Verdict.unparsed, Verdict.wrong)
        assert pool.verify("x+1", boxed("1+x")) == Verdict.correct
        for pid in children(os.getpid()) - before:
            status = proc(f"{pid}/status")
            peak = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
            assert sum(peak) < 400 * 1024


def test_workers_start_when_needed_and_are_gone_after_close(stub):
    before = children(os.getpid())
    pool = Verifier(workers=2)
    assert pool.verify("5", boxed("5")) == Verdict.correct
    assert not children(os.getpid()) - before, "an integer needs no worker"
    pool.verify_many([("x", boxed("y+1")), ("x", boxed("y+2"))])
    started = children(os.getpid()) - before
    assert started
    pool.close()
    pool.close()
    until_gone(started)
    with pytest.raises(VerifierError, match="closed"):
        pool.verify("x", boxed("y"))


def test_an_exception_in_the_block_leaves_no_worker(stub):
    before, started = children(os.getpid()), set()

    def work():
        with Verifier(workers=1) as pool:
            pool.verify("x", boxed("y"))
            started.update(children(os.getpid()) - before)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert started
    until_gone(started)


class TestKills:
    """From outside: by a container's memory killer, or an operator."""

    def test_a_hundred_kills_change_no_verdict(self, stub):
        """Of each process, idle and busy; a verdict that another job got would show in the next ones."""
        places = [(who, busy) for who in (inner_of, inner_of, inner_of, outer_of) for busy in (False, True)]
        with Verifier(workers=1) as verifier:
            verifier.verify(*WRONG)
            for k in range(100):
                who, busy = places[k % len(places)]

                def kill(who=who, how=signal.SIGTERM if k % 3 == 2 else signal.SIGKILL):
                    os.kill(pid := who(verifier), how)
                    return pid

                if busy:
                    assert judge_meanwhile(verifier, stub, kill, f"h{k}") == Verdict.correct, k
                else:
                    pid = kill()
                    if k % 3:  # else it may still be on its way when the next job comes
                        until_gone([pid])
                assert verifier.verify_many([RIGHT, WRONG]) == [Verdict.correct, Verdict.wrong], k
                assert verifier.verify(*RIGHT) == Verdict.correct, k

    @pytest.mark.parametrize("who", [inner_of, outer_of])
    def test_a_job_whose_judge_is_killed_again_and_again_is_given_up(self, stub, who):
        mark = stub / "h1.judging"
        with Verifier(workers=1) as verifier:

            def kill_all():
                for _ in range(pool.TRIES):
                    until(mark.exists, "that a worker judges")
                    mark.unlink()
                    os.kill(who(verifier), signal.SIGKILL)

            assert judge_meanwhile(verifier, stub, kill_all) == Verdict.timeout
            assert verifier.verify_many([RIGHT, WRONG]) == [Verdict.correct, Verdict.wrong]

    def test_one_that_is_killed_while_it_starts_is_started_again(self, stub, monkeypatch):
        made, start = [], pool.lifetimes.start

        def killed_at_first(*args, **options):
            made.append(start(*args, **options))
            if len(made) == 1:
                made[0].kill()
            return made[-1]

        monkeypatch.setattr(pool.lifetimes, "start", killed_at_first)
        with Verifier(workers=1) as verifier:
            assert verifier.verify(*RIGHT) == Verdict.correct
        assert len(made) == 2

    def test_the_real_judge_is_killed_too(self):
        with Verifier(workers=1) as verifier:
            verifier.verify("x", boxed("y"))
            for who in (inner_of, outer_of):
                os.kill(who(verifier), signal.SIGKILL)
                pairs = [("x", boxed("y+1")), ("x+1", boxed("1+x"))]
                assert verifier.verify_many(pairs) == [Verdict.wrong, Verdict.correct]


def test_a_verdict_with_another_number_is_not_taken(stub, monkeypatch):
    read, stale = pool._Worker.read, ["0 correct", "7 correct"]
    monkeypatch.setattr(pool._Worker, "read", lambda self: stale.pop() if self.job and stale else read(self))
    with Verifier(workers=1) as verifier:
        assert verifier.verify_many([WRONG, RIGHT]) == [Verdict.wrong, Verdict.correct]
    assert not stale


def test_the_parent_kills_a_worker_that_does_not_answer(stub, monkeypatch):
    with Verifier(workers=1) as verifier:
        verifier.verify("x", boxed("y"))
        monkeypatch.setattr(pool, "_PATIENCE", -9.9)  # with ten times timeout=1.0, a tenth of a second
        os.kill(inner_of(verifier), signal.SIGSTOP)
        os.kill(outer_of(verifier), signal.SIGSTOP)
        assert verifier.verify(*RIGHT) == Verdict.timeout
        monkeypatch.setattr(pool, "_PATIENCE", 10.0)
        assert verifier.verify(*RIGHT) == Verdict.correct


def test_a_worker_that_cannot_start_says_why(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Verifier(workers=1) as pool, pytest.raises(VerifierError, match="did not start"):
        pool.verify("x", boxed("y"))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_worker_outlives_its_parent(stub, how):
    code = (
        "import signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits that it is ignored
        "from dgpo.verifier import Verifier, pool\n"
        "pool._WORKER = 'stub_worker'\n"
        "Verifier(workers=1).verify('h1+x', r'\\boxed{y}')\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as parent:
        until((stub / "h1.judging").exists, "that a worker judges")
        workers = children(parent.pid)
        assert len(workers) == 2
        parent.send_signal(how)
        until_gone(workers)


class TestForks:
    def judged_in_a_fork(self, verifier):
        """Whether a child of `fork` gets right verdicts; it ends by the alarm if it hangs."""
        pid = os.fork()
        if pid == 0:
            signal.alarm(WATCHDOG)
            os._exit(0 if verifier.verify_many([RIGHT, WRONG]) == [Verdict.correct, Verdict.wrong] else 1)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def test_one_while_another_thread_judges_does_not_hang(self, stub):
        right = []
        with Verifier(workers=1) as verifier:  # whose lock is held, and inherited
            done = judge_meanwhile(verifier, stub, lambda: right.append(self.judged_in_a_fork(verifier)))
            assert (right, done) == ([True], Verdict.correct)
            assert self.judged_in_a_fork(verifier)
            assert verifier.verify_many([RIGHT, WRONG]) == [Verdict.correct, Verdict.wrong]

    @pytest.mark.parametrize("how", ["fork", "spawn"])
    def test_processes_of_multiprocessing_judge(self, stub, how):
        assert verify(*RIGHT) == Verdict.correct  # the parent has a worker of its own
        with multiprocessing.get_context(how).Pool(2) as processes:
            assert processes.starmap(judge_with_stub, [RIGHT, WRONG] * 2) == [Verdict.correct, Verdict.wrong] * 2


def judge_with_stub(*pair):
    pool._WORKER = "stub_worker"
    return verify(*pair)


def test_a_worker_outlives_the_thread_that_needed_it(stub):
    with Verifier(workers=1) as verifier:
        assert asyncio.run(asyncio.to_thread(verifier.verify, *WRONG)) == Verdict.wrong
        pids = {outer_of(verifier), inner_of(verifier)}
        assert asyncio.run(asyncio.to_thread(verifier.verify, *RIGHT)) == Verdict.correct
        assert verifier.verify(*WRONG) == Verdict.wrong
        assert {outer_of(verifier), inner_of(verifier)} == pids


def test_closing_ends_what_another_thread_verifies(stub):
    verifier, before, raised = Verifier(workers=1), children(os.getpid()), []

    def work():
        with pytest.raises(VerifierError, match="closed"):
            verifier.verify("h1+x", boxed("y"))
        raised.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    until((stub / "h1.judging").exists, "that a worker judges")
    workers = children(os.getpid()) - before
    verifier.close()
    thread.join()
    assert raised
    until_gone(workers)


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


def test_verdicts_are_counted_and_equal_pairs_cost_one(stub):
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
