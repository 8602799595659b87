"""Reports on files of problems: findings, contamination, and training without contaminated rows."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from running import DATA

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import data
from dgpo.data import overlap
from dgpo.data.files import DataError
from dgpo.tasks.math import MathTask

LONG = "A farmer has $12$ hens, and each of them lays {} eggs in a week of seven days. How many eggs?"


@pytest.fixture
def write(tmp_path):
    def write(rows, name="rows.jsonl"):
        path = tmp_path / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        return path

    return write


def row(problem, answer="1", **more):
    return {"problem": problem, "answer": answer, **more}


def test_findings_by_hand(write):
    path = write(
        [
            row("What is 1+1?", "2", id="a"),
            row("What  is\n1+1?", "2", id="b", level=3),
            row("What is 1+1?", "3", id="c"),
            row("求 x", "025", id="d"),
            row("Сколько будет 2+2?", 4.0, id="e"),
            row("$5!$", "", id="f"),
            row(" ", float("nan"), id="g"),
            "{broken",
        ]
    )
    rows, report = data.load(path)
    assert len(rows) == report.rows == 7
    assert report.unreadable == ["line 8"]
    assert [fault.partition(": ")[0] for fault in report.faults] == ["line 6", "line 7", "line 8"]
    assert report.fields["level"] == 1
    assert (report.duplicates, report.conflicting) == (2, [["a", "b", "c"]])
    assert report.empty_answers == ["f", "g"]
    assert report.empty_problems == ["g"]
    assert report.answer_types == {"str": 4, "float": 1}
    assert report.leading_zeros == ["d"]
    assert report.scripts == {"latin": 3, "cjk": 1, "cyrillic": 1, "none": 2}
    text = "\n".join(report.lines())
    assert "in some rows: level (1)" in text
    assert "non-string answers     1: 1 float" in text
    assert "  line 6: field 'answer' is empty" in text


def test_27_and_27_point_0_do_not_conflict(write):
    _, report = data.load(write([row("x?", "27"), row("x?", 27.0), row("x?", 27)]))
    assert report.conflicting == []


def test_contamination_is_named_by_its_strictest_kind():
    def rows(*texts):
        return [data.Row(f"r{i}", t, "1") for i, t in enumerate(texts)]

    tests = rows(LONG.format(5), "Short one?", "求 $x$", "!?")
    train = rows(
        LONG.format(5).replace(" ", "  "),
        LONG.format(5).replace("$", "").upper(),
        LONG.format(5) + " They cost two dollars a dozen at the market.",
        LONG.format(6),
        "short, one",
        "求 $y$",
        "?!",
        "Entirely different words that have nothing whatever in common with hens and eggs here.",
    )
    found = {(kind, test, name) for kind, test, name, _ in data.contamination(train, tests)}
    assert found == {
        ("exact", "r0", "r0"),
        ("loose", "r0", "r1"),
        ("gram10", "r0", "r2"),
        ("loose", "r1", "r4"),
    }
    assert data.matched(data.contamination(train, tests)) == {"exact": 1, "loose": 2, "gram10": 2}


def definition(rows, tests):
    """The three kinds, from sets of words: {(kind, test, row, share)}."""

    def grams(text):
        words = overlap.words(text)
        return {tuple(words[i : i + 10]) for i in range(len(words) - 9)}

    found = set()
    for test in tests:
        for row in rows:
            theirs, shared = grams(test.text), grams(test.text) & grams(row.text)
            if overlap.exact_key(test.text) == overlap.exact_key(row.text) != "":
                kind = "exact"
            elif overlap.loose_key(test.text) == overlap.loose_key(row.text) != "":
                kind = "loose"
            elif theirs and len(shared) >= len(theirs) / 2:
                kind = "gram10"
            else:
                continue
            found.add((kind, test.name, row.name, len(shared) / len(theirs) if theirs else 1.0))
    return found


def counts(pairs):
    order = {kind: i for i, kind in enumerate(overlap.KINDS)}
    strictest = {}
    for kind, test, _, _ in pairs:
        strictest[test] = min(strictest.get(test, 2), order[kind])
    return {kind: sum(found <= i for found in strictest.values()) for kind, i in order.items()}


PIECES = ["a b c d e f", "a b c d e g", "1", "2", "x", "求", ",", "  "]
TEXTS = st.lists(st.lists(st.sampled_from(PIECES), max_size=8).map(" ".join), max_size=6)


@given(rows=TEXTS, tests=TEXTS)
def test_contamination_is_its_definition(rows, tests):
    rows, tests = ([data.Row(f"r{i}", text, "1") for i, text in enumerate(texts)] for texts in (rows, tests))
    pairs = data.contamination(rows, tests)
    assert len(pairs) == len(set(pairs))
    assert set(pairs) == definition(rows, tests)
    once = data.contamination(rows, tests, every=False)
    assert max(Counter(test for _, test, _, _ in once).values(), default=1) == 1
    assert data.matched(once) == data.matched(pairs) == counts(pairs)


def test_problems_of_one_template_cost_no_more_than_their_number():
    """200 tests have 40 10-grams each in common; with an entry for each (10-gram, test) a row would cost 200 × 40."""
    words = [f"word{i}" for i in range(60)]
    tests = [" ".join([*words[:50], f"n{i}", *words[50:]]) for i in range(200)]
    assert overlap._Grams(tests)._table.nnz == 2 * len(tests)  # what all share, and what has the test's own word
    made = [data.Row(str(i), text, "1") for i, text in enumerate(tests)]
    assert len(data.contamination(made, made)) == len(tests) ** 2
    assert len(data.contamination(made, made, every=False)) == len(tests)


def test_command_prints_pairs_and_counts(write, capsys):
    train, test = write([row(LONG.format(5))]), write([row(LONG.format(5), id="t")], "test.jsonl")
    assert cli.main(["data", "check", str(train), "--against", str(test), "--pairs"]) == 0
    out = capsys.readouterr().out
    assert "exact 1, loose 1, gram10 1" in out
    assert "exact   t  line 1  100%" in out


@pytest.mark.parametrize(
    ("rows", "words", "said"),
    [
        ([], [], "the file is empty"),
        ([row("x")], ["--answer-field", "gold"], "no row has a field 'gold'; there are: problem, answer"),
    ],
)
def test_a_file_that_does_not_serve_is_named(write, capsys, rows, words, said):
    path = write(rows)
    assert cli.main(["data", "check", str(path), *words]) == 2
    assert f"error: {path}: {said}" in capsys.readouterr().err
    assert cli.main(["data", "check", "nowhere.jsonl"]) == 2


class TestDropping:
    @pytest.fixture
    def tokenizer(self, checkpoint):
        from dgpo.model.loading import load_lm

        return load_lm(checkpoint)[1]

    def test_exact_and_loose_matches_of_the_heldout_rows_leave(self, write, tokenizer):
        train = write([row(LONG.format(5)), row(LONG.format(5).upper()), row(LONG.format(6)), row("2 + 2", "4")])
        test = write([row(LONG.format(5)), row("2 + 2", "4")], "test.jsonl")
        task = MathTask(train, tokenizer, eval_data=test, heldout=1, drop_contaminated=True)
        assert len(task) == 2
        assert task.notes["contaminated_rows"] == 2
        assert task.notes["rows_also_heldout"] == 1
        assert len(MathTask(train, tokenizer, eval_data=test, heldout=1)) == 4

    def test_nothing_left_is_an_error(self, write, tokenizer):
        path = write([row("x")])
        with pytest.raises(DataError, match="drop_contaminated=true leaves no row"):
            MathTask(path, tokenizer, eval_data=path, heldout=1, drop_contaminated=True)

    def test_without_eval_data_it_is_refused(self):
        with pytest.raises(configs.ConfigError, match="drop_contaminated=True needs"):
            configs.load("tiny", drop_contaminated=True)


@pytest.mark.skipif(not (DATA / "dapo_math_17k.jsonl").exists(), reason="the real files are not here")
class TestRealFiles:
    def test_dapo_against_math500(self):
        rows, report = data.load(DATA / "dapo_math_17k.jsonl")
        tests, _ = data.load(DATA / "math500.jsonl")
        counts = data.matched(data.contamination(rows, tests))
        assert (report.rows, report.duplicates, len(report.conflicting)) == (17917, 731, 12)
        assert report.scripts["cjk"] == 3432
        assert counts == {"exact": 4, "loose": 7, "gram10": 23}
