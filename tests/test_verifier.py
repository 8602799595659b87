import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sympy
from math_verify import parser
from verifier_cases import HACKS, TABLE
from verifier_cases_blind import BLIND, COMPLETIONS

from dgpo.verifier import Verdict, Verifier, VerifierError, final_answer, latex, literals, notation, values, verify
from dgpo.verifier import __main__ as audit
from dgpo.verifier import judge as judging

DATA = Path(os.environ.get("DGPO_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))

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


def boxed(answer):
    return rf"<think>Let me see.</think> So it is \boxed{{{answer}}}."


@pytest.fixture(scope="module")
def verifier():
    with Verifier(workers=2) as pool:
        yield pool


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


# the answer of a completion


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{3} no, \boxed{5}", "5"),
        (r"\boxed{5} then \boxed{6", "5"),
        (r"\boxed{5} then \boxed{\frac{1}{2}", "5"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1,2\}}", r"\{1,2\}"),
        (r"\boxed{\left\{ x \right.}", r"\left\{ x \right."),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{x = \boxed{5}}", "x = 5"),
        (r"\boxed{\frac{\boxed{1}}{2}}", r"\frac{1}{2}"),
        (r"} \boxed{5}", "5"),
        (r"{ \boxed{5}", "5"),
        (r"\boxed{3}</think> it is \boxed{5}", "5"),
        (r"\boxed{3}</think> it is 5", None),
        (r"<think>\boxed{3}</think>\boxed{4}</think>5", None),
        (r"<think> so \boxed{5}", "5"),
        ("5", None),
        (r"\boxed{5", None),
        (r"\boxed 5", None),
        (r"\boxed{}", ""),
        (r"\boxed{5} and \boxed{ }", ""),
        ("", None),
    ],
)
def test_final_answer_is_the_last_closed_box_after_the_thought(completion, answer):
    assert final_answer(completion) == answer


def test_thousands_of_open_boxes_cost_one_pass():
    started = time.process_time()
    assert final_answer(r"\boxed{5}" + r"\boxed{" * 50_000) == "5"
    assert time.process_time() - started < 1.0


@pytest.mark.parametrize(
    ("completion", "verdict"),
    [
        ("the answer is 5", "no_answer"),
        (r"\boxed{}", "no_answer"),
        (r"\boxed{ . }", "no_answer"),
        (r"5 \boxed{}", "no_answer"),
        (r"\boxed{5", "no_answer"),
        (r"\boxed{5}</think>", "no_answer"),
        (r"\boxed{)(}", "unparsed"),
        (r"\boxed{\frac{}}", "unparsed"),
        (r"\boxed{5+}", "unparsed"),
        (r"\boxed{" + "5" * 3_000 + "}", "unparsed"),
        (r"\boxed{6}", "wrong"),
        (r"\boxed{5}", "correct"),
    ],
)
def test_every_verdict(verifier, completion, verdict):
    assert verifier.verify("5", completion) == Verdict(verdict)


# right or wrong


@pytest.mark.parametrize("cases", [*TABLE.values(), *BLIND.values()], ids=[*TABLE, *(f"blind-{k}" for k in BLIND)])
def test_table(verifier, cases):
    verdicts = verifier.verify_many((gold, boxed(answer)) for gold, answer, _ in cases)
    assert [case for case, v in zip(cases, verdicts, strict=True) if (v == Verdict.correct) != case[2]] == []


def test_whole_completions(verifier):
    verdicts = verifier.verify_many((gold, completion) for gold, completion, _ in COMPLETIONS)
    assert [case for case, v in zip(COMPLETIONS, verdicts, strict=True) if (v == Verdict.correct) != case[2]] == []


def test_table_is_large_and_judging_it_raises_nothing():
    assert sum(map(len, TABLE.values())) >= 150
    assert len(HACKS) >= 50
    for cases in TABLE.values():
        for gold, answer, right in cases:
            verdict = judging.judge(notation.normalise(gold), notation.normalise(answer))
            assert (verdict == Verdict.correct) == right or literals.value(notation.normalise(gold)) is not None


def test_equal_values_are_seen_and_close_ones_told_apart(verifier):
    rng, pairs, right = random.Random(0), [], []
    for _ in range(150):
        a, b, c = rng.randint(2, 40), rng.randint(2, 40), rng.randint(2, 9)
        pairs.append((rf"\frac{{{a}}}{{{b}}} + {c}\sqrt{{{a}}}", rf"\frac{{{c * b}\sqrt{{{a}}} + {a}}}{{{b}}}"))
        right.append(True)
        pairs.append((rf"\frac{{{a}}}{{{b}}} + {c}\sqrt{{{a}}}", rf"\frac{{{c * b}\sqrt{{{a}}} + {a + 1}}}{{{b}}}"))
        right.append(False)
        pairs.append((rf"({a}x+{b})(x-{c})", rf"{a}x^2 + {b - a * c}x - {b * c}"))
        right.append(True)
        pairs.append((rf"({a}x+{b})(x-{c})", rf"{a}x^2 + {b - a * c + 1}x - {b * c}"))
        right.append(False)
    verdicts = verifier.verify_many((gold, boxed(answer)) for gold, answer in pairs)
    assert [v == Verdict.correct for v in verdicts] == right


def test_reading_in_two_stages_changes_nothing(monkeypatch):
    cases = [*TABLE["expressions"], *BLIND["algebra"]]
    texts = {notation.normalise(text) for case in cases for text in case[:2]}
    texts |= {"x^2_1", "a^{2}_n y^3", "f^{-1}(x)", "x^{y^2}", "e^{-2x}x^2", r"\sin^2 x + \pi^2", "x^"}
    in_two = [repr(judging._read.__wrapped__(t)) for t in sorted(texts)]
    assert sum(r != "None" for r in in_two) > 100
    parser.parse_latex_cached.cache_clear()
    monkeypatch.setattr(latex._Reader, "parse", latex._parse)
    monkeypatch.setattr(latex._Reader, "create_parser", latex._create_parser)
    assert [repr(judging._read.__wrapped__(t)) for t in sorted(texts)] == in_two


@pytest.mark.parametrize(
    ("gold", "given", "parted"),
    [
        ("x^2+y^2-25", "x^2+y^2-26", True),
        ("x^2+y^2-25", "x^2-y^2-25", True),
        ("x*y-3", "y-3/x", False),
        ("x**2-4", "Abs(x)-2", False),
        ("sin(x)*y", "sin(x)*(y-1)", True),
        ("x**2+1", "x**2+2", False),  # no real zero to tell them by
    ],
)
def test_a_zero_of_one_equation_tells_it_from_another(gold, given, parted):
    assert values.parted(sympy.sympify(gold.replace("^", "**")), sympy.sympify(given.replace("^", "**"))) is parted


def test_numbers_of_any_length_are_exact():
    digits = "7" * 5_000
    assert literals.equal(digits, digits[:-1] + "8") is False
    assert literals.equal("0" + digits, digits) is True
    assert literals.equal("1e3", "1000") is None  # normalising comes first
    assert literals.equal(notation.normalise("1e3"), "1000") is True


def test_reference_answers_answer_themselves(verifier):
    if not DATA.is_dir():
        pytest.skip("no folder of problem files")
    golds = []
    for path in sorted(DATA.glob("*.jsonl")):
        rows = [json.loads(line) for line in path.open(encoding="utf-8")]
        golds += [r["answer"] for r in rows if r.get("answer", "").strip()]
    assert len(golds) > 35_000
    verdicts = verifier.verify_many((gold, boxed(gold)) for gold in golds)
    assert [g for g, v in zip(golds, verdicts, strict=True) if v != Verdict.correct] == []


def test_reference_answers_are_read_and_not_only_compared_as_text(monkeypatch):
    """Without the comparison of texts, at most 1 % of the references of two files are not equal to themselves."""
    if not DATA.is_dir():
        pytest.skip("no folder of problem files")
    monkeypatch.setattr(judging, "_string", lambda text: object())
    judged, failed = 0, []
    for name in ("math500.jsonl", "olympiadbench_maths_en.jsonl"):
        for line in (DATA / name).open(encoding="utf-8"):
            gold = notation.normalise(json.loads(line)["answer"])
            if literals.value(gold) is None:
                judged += 1
                failed += [gold] if judging.judge(gold, gold) != Verdict.correct else []
    assert judged > 300
    assert len(failed) < judged / 100, failed


# workers


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


# audit


def test_audit_lists_where_math_verify_alone_decides_otherwise(tmp_path, capsys):
    path = tmp_path / "completions.jsonl"
    rows = [("1/3", "0.333333"), ("1/3", r"0.\overline{3}"), ("5", "5"), ("5", "6")]
    path.write_text("\n".join(json.dumps({"answer": g, "completion": boxed(a)}) for g, a in rows))
    assert audit.main([str(path), "--workers", "1"]) == 0
    *disagreements, total = capsys.readouterr().out.splitlines()
    assert [(d["line"], d["dgpo"]) for d in map(json.loads, disagreements)] == [(1, "wrong"), (2, "correct")]
    assert total.startswith("4 judged. dgpo: 2 wrong, 2 correct.") or "2 correct, 2 wrong" in total


def test_audit_of_a_problem_file_and_of_one_that_cannot_be_read(tmp_path, capsys):
    path = tmp_path / "problems.jsonl"
    path.write_text('{"problem": "?", "answer": "12"}\n')
    assert audit.main([str(path), "--workers", "1"]) == 0
    assert capsys.readouterr().out.startswith("1 judged. dgpo: 1 correct.")
    assert audit.main([str(path), "--answer-field", "gold"]) == 2
    assert "line 1: no field 'gold'; the row has 'problem', 'answer'" in capsys.readouterr().err
