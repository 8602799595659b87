"""What is right and what is wrong: the last box, the tables of cases, equal values, the audit of a file."""

import json
import random

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st
from running import DATA
from verifier_cases import BLIND, COMPLETIONS, TABLE, boxed

from dgpo.verifier import Verdict, final_answer, literals, notation, pool, values
from dgpo.verifier import __main__ as audit
from dgpo.verifier import answer as answers
from dgpo.verifier import judge as judging


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
        (r"$\boxed{1}$, $\boxed{2}$ or $\boxed{3}$", "1; 2; 3"),
        (r"\boxed{1}\quad\text{and}\quad\boxed{2}", "1; 2"),
        (r"\(x_1 = \boxed{1}\) and \(x_2 = \boxed{2}\)", "1; 2"),
        (r"\boxed{1}, \boxed{\boxed{2}}", "1; 2"),
        (r"\boxed{\boxed{1}\boxed{2}}", "1;2"),
        (r"\boxed{5}, \boxed{5}", "5"),
        (r"\boxed{4}. So \boxed{5} and \boxed{6}", "5; 6"),
        (r"\boxed{4} and then \boxed{5}", "5"),
        ("", None),
    ],
)
def test_final_answer_is_the_last_closed_box_after_the_thought_or_the_list_that_ends_with_it(completion, answer):
    assert final_answer(completion) == answer


@pytest.mark.parametrize(
    "tail",
    [
        r"\boxed{5}",
        r"\boxed{5} and ",
        r"x_1 = ",
        r"\text{ ",
        r"\boxed{",
        r"\boxed{6",
        r"{",
        "}",
        r"\{",
        r"\boxed",
        " and ",
        r"\boxed 6",
    ],
)
def test_a_completion_of_any_length_is_read_in_one_pass(monkeypatch, tail):
    """Work counted as marks looked at: no more than the text has characters, whatever it repeats."""
    looked_at = 0

    class Counting:
        def finditer(self, text):
            nonlocal looked_at
            for mark in token.finditer(text):
                looked_at += 1
                yield mark

    token = answers._TOKEN
    monkeypatch.setattr(answers, "_TOKEN", Counting())
    completion = r"\boxed{5} " + tail * 5_000
    assert final_answer(completion) is not None
    assert looked_at <= len(completion)


def test_nothing_longer_than_the_limit_is_normalised(monkeypatch):
    """So that what is worse than linear there, if anything, is bounded."""
    lengths = []
    monkeypatch.setattr(notation, "normalise", lambda text: lengths.append(len(text)) or text)
    assert pool._without_worker("5", rf"\boxed{{{'9' * 1_001}}}") == Verdict.unparsed
    for bad in ("9" * 1_001, "9" * 100_000):
        with pytest.raises(ValueError, match=f"reference has {len(bad)} characters; at most 1000 are read"):
            pool._without_worker(bad, r"\boxed{5}")
    assert pool._without_worker("9" * 1_000, rf"\boxed{{{'9' * 1_000}}}") == Verdict.correct
    assert lengths == [1_000, 1_000]


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


def test_table_is_large_and_judging_some_of_it_raises_nothing():
    """A worker would call an exception `unparsed`, which is right for every case that is wrong."""
    assert sum(map(len, TABLE.values())) >= 150
    assert len(TABLE["hacks"]) >= 50
    for cases in TABLE.values():
        for gold, answer, right in cases[::6]:
            verdict = judging.judge(notation.normalise(gold), notation.normalise(answer))
            assert (verdict == Verdict.correct) == right or literals.value(notation.normalise(gold)) is not None


def test_equal_values_are_seen_and_close_ones_told_apart(verifier):
    rng, pairs, right = random.Random(0), [], []
    for _ in range(60):
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


@pytest.mark.parametrize(
    ("gold", "given", "parted"),
    [
        ("x**2+y**2-25", "x**2+y**2-26", True),
        ("x**2+y**2-25", "x**2-y**2-25", True),
        ("x*y-3", "y-3/x", False),
        ("x**2-4", "Abs(x)-2", False),
        ("x-y", "Abs(x)-Abs(y)", True),
        ("sin(x)*y", "sin(x)*(y-1)", True),
        ("x**2+1", "x**2+2", None),  # no real zero to tell them by
    ],
)
def test_a_zero_of_one_equation_tells_it_from_another(gold, given, parted):
    equations = (sympy.Eq(sympy.sympify(text), 0) for text in (gold, given))
    assert values.parted(*equations) is parted


COMMANDS = r"""
    \equiv \sim \approx \to \Rightarrow \iff \neq < \leq \mid \in \subset = \lor \cup \pm \cdot , ; : | \quad
    \text{or} \text{not} or and but & \\ ( ) [ \{ ? ! / ^ _ \over \ldots \stackrel{?}{=} ≅ ⊕ 或 \phantom{x} \overline
"""


def test_nothing_between_a_wrong_value_and_the_right_one_makes_it_right(verifier):
    """What math-verify cannot read as a whole, it would search for the last part that it can."""
    values = [("5", "6"), (r"\frac{1}{2}", r"\frac{1}{3}"), ("x+1", "x+2"), ("(1,2)", "(2,1)"), ("[0,1]", "[0,2]")]
    pairs = [(gold, boxed(f"{wrong} {c} {gold}")) for gold, wrong in values for c in COMMANDS.split()]
    verdicts = verifier.verify_many(pairs)
    assert [pair for pair, verdict in zip(pairs, verdicts, strict=True) if verdict == Verdict.correct] == []


@given(
    st.lists(st.integers(0, 99), min_size=2, max_size=5, unique=True),
    st.sampled_from([", ", " and ", " or ", "$, $", r" \quad ", "\n", r"\text{ and }", " or x = "]),
)
def test_boxes_side_by_side_are_one_list_and_none_of_them_the_answer(numbers, between):
    completion = "So " + between.join(rf"\boxed{{{n}}}" for n in numbers)
    assert final_answer(completion) == "; ".join(map(str, numbers))
    assert final_answer(completion + r" Wait, it is \boxed{7}.") == "7"


@given(st.tuples(*[st.integers(-9, 9).filter(bool)] * 3), st.integers(2, 5), st.sampled_from(["=", "<", r"\leq "]))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_an_equation_or_inequality_is_its_multiples_and_its_mirror_image_and_no_other(numbers, k, mark):
    a, b, c = numbers
    mirror = {"=": "=", "<": ">", r"\leq ": r"\geq "}[mark]
    gold = f"{a}x+{b}y {mark} {c}".replace("+-", "-")
    right = f"{c * k} {mirror} {b * k}y+{a * k}x".replace("+-", "-")
    wrong = f"{c * k + 1} {mirror} {b * k}y+{a * k}x".replace("+-", "-")
    assert judging.judge(gold, right) == judging.judge(right, gold) == Verdict.correct
    assert judging.judge(gold, wrong) == judging.judge(wrong, gold) == Verdict.wrong
    if mark != "=":
        assert judging.judge(gold, right.replace(mirror, mark)) == Verdict.wrong


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
    assert audit.main([str(path), "--completion-field", "answr"]) == 2  # not judged by its own answer in a box
    assert "line 1: no field 'answr'; the row has 'problem', 'answer'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        audit.main([str(path), "--workers", "0"])
    assert "--workers 0 must be at least 1" in capsys.readouterr().err


def test_audit_leaves_out_empty_answers_but_no_empty_completion(tmp_path, capsys):
    path = tmp_path / "completions.jsonl"
    path.write_text('{"answer": NaN}\n{"answer": " "}\n{"answer": null}\n{"answer": "4", "completion": ""}\n')
    assert audit.main([str(path), "--workers", "1"]) == 0
    assert capsys.readouterr().out.startswith("1 judged. dgpo: 1 no_answer.")
    path.write_text('{"answer": "4", "solution": 4}\n')
    assert audit.main([str(path), "--completion-field", "solution"]) == 2
    assert "line 1: the completion is 4, not a string" in capsys.readouterr().err
