"""Reports on files of problems: findings, contamination, and training without contaminated rows."""

import json
import time

import pytest
from running import DATA

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import data
from dgpo.tasks.math import DataError, MathTask

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
        from dgpo.loading import load_lm

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
        start = time.process_time()
        rows, report = data.load(DATA / "dapo_math_17k.jsonl")
        tests, _ = data.load(DATA / "math500.jsonl")
        counts = data.matched(data.contamination(rows, tests))
        assert time.process_time() - start < 60
        assert (report.rows, report.duplicates, len(report.conflicting)) == (17917, 731, 12)
        assert report.scripts["cjk"] == 3432
        assert counts == {"exact": 4, "loose": 7, "gram10": 23}
