import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from running import DATA
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import dgpo.tasks
from dgpo.data.files import DataError, answer_text
from dgpo.tasks.math import MathTask
from dgpo.tasks.prompts import INSTRUCTION
from dgpo.verifier import Verdict, Verifier

SCHOOL = Path(dgpo.tasks.__file__).parent / "data" / "problems.jsonl"
TEMPLATE = "{% for m in messages %}<user>{{ m.content }}{% endfor %}{{ '<assistant><think>\n' }}"


@pytest.fixture(scope="module")
def tokenizer():
    """One token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(["<pad>", *alphabet])}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<pad>")


@pytest.fixture
def make(tokenizer, tmp_path):
    """Write rows to a JSONL file (strings as they are) and make the task of it."""

    def make(rows, name="rows.jsonl", **settings):
        path = tmp_path / name
        if rows is not None:
            path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
        return MathTask(path, tokenizer, **settings)

    return make


def row(problem="What is 1+1?", answer="2"):
    return {"problem": problem, "answer": answer}


def rows(n):
    return [row(f"What is {i}+1?", str(i + 1)) for i in range(n)]


def stream(task, n):
    return [task.train(i) for i in range(n)]


def test_prompt_opens_the_thought_when_the_tokenizer_has_no_template(make):
    assert make([row()]).train(0).prompt == f"What is 1+1?{INSTRUCTION}\n<think>\n"


def test_prompt_is_the_checkpoints_own_template_and_nothing_more(make, tokenizer):
    tokenizer.chat_template = TEMPLATE
    try:
        assert make([row()]).train(0).prompt == f"<user>What is 1+1?{INSTRUCTION}<assistant><think>\n"
    finally:
        tokenizer.chat_template = None


def test_stream_is_a_fresh_permutation_in_each_epoch_and_a_pure_function_of_seed_and_position(make):
    task, again, other = make(rows(30)), make(rows(30)), make(rows(30), seed=1)
    epochs = [[task.train(30 * e + i).id for i in range(30)] for e in range(3)]
    assert all(sorted(e) == sorted(epochs[0]) for e in epochs)
    assert len({tuple(e) for e in epochs}) == 3
    assert [again.train(i).id for i in reversed(range(90))] == [x for e in epochs for x in e][::-1]
    assert [p.id for p in stream(other, 30)] != epochs[0]


def test_split_is_disjoint_and_the_same_for_every_seed_order_and_template(make, tokenizer):
    task, shuffled = make(rows(40), heldout=10), make(rows(40)[::-1], heldout=10, seed=5)
    tokenizer.chat_template = TEMPLATE
    try:
        templated = make(rows(40), heldout=10)
    finally:
        tokenizer.chat_template = None
    held, trained = {p.prompt for p in task.heldout}, {p.prompt for p in stream(task, 30)}
    assert len(held) == 10
    assert len(trained) == 30
    assert not held & trained
    assert {p.prompt for p in shuffled.heldout} == held
    assert [p.answer for p in templated.heldout] == [p.answer for p in task.heldout]


def test_copies_of_a_text_land_on_one_side(make):
    copies = [row(r["problem"].replace(" ", "  "), "0") for r in rows(20)]
    task = make(rows(20) + copies, heldout=10)
    held = {" ".join(p.prompt.split()) for p in task.heldout}
    assert not held & {" ".join(p.prompt.split()) for p in stream(task, 20)}
    assert len(task) == 20
    assert task.notes["duplicate_rows"] == 20
    assert task.notes["conflicting_answers"] == 20


def test_heldout_from_another_file_is_its_first_rows(make, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps(r) for r in rows(5)))
    task = make(rows(3), eval_data=other, heldout=4)
    assert [p.answer for p in task.heldout] == ["1", "2", "3", "4"]
    assert len(task) == 3
    assert task.notes["rows_also_heldout"] == 3
    with pytest.raises(DataError, match=r"other\.jsonl has 5 usable rows, fewer than eval_problems=6"):
        make(rows(3), eval_data=other, heldout=6)


def test_too_many_heldout_names_both_numbers(make):
    with pytest.raises(DataError, match="has 3 different problems: too few for eval_problems=3 and one to train on"):
        make(rows(3), heldout=3)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"question": "1+1?", "answer": "2"}, "no field 'problem'; the row has 'question', 'answer'"),
        ({"problem": "1+1?"}, "no field 'answer'; the row has 'problem'"),
        (row("  "), "field 'problem' is empty"),
        (row(answer=""), "field 'answer' is empty"),
        (row(answer=None), "field 'answer' is empty"),
        (row(answer=float("nan")), "field 'answer' is empty"),
        (row(answer=["2"]), "field 'answer' is list"),
        (row(answer=True), "field 'answer' is bool"),
        (row(answer="9" * 1001), "field 'answer' has 1001 characters; the verifier reads at most 1000"),
        (row(problem=3), "field 'problem' is int 3, not a string"),
        ('{"problem": "1+1?", "answer', "not a JSON object: "),
        ("[1, 2]", "not a JSON object but list"),
    ],
)
def test_bad_row_names_file_line_and_fault_and_can_be_skipped(make, bad, message):
    given = [row(), "", bad, row("What is 2+2?", "4")]
    with pytest.raises(DataError) as error:
        make(given)
    assert "rows.jsonl, line 3: " in str(error.value)
    assert message in str(error.value)
    task = make(given, skip_bad_rows=True)
    assert len(task) == 2
    assert task.notes["skipped_rows"] == 1


def test_bytes_that_are_no_utf8_are_a_bad_row(tokenizer, tmp_path):
    path = tmp_path / "bytes.jsonl"
    path.write_bytes(b'{"problem": "caf\xe9", "answer": "1"}\n')
    with pytest.raises(DataError, match=r"bytes\.jsonl, line 1: not a JSON object"):
        MathTask(path, tokenizer)


def test_nothing_left_is_an_error(make):
    with pytest.raises(DataError, match="the file is empty"):
        make([])
    with pytest.raises(DataError, match="no usable row, 2 skipped"):
        make([row(answer=""), "{"], skip_bad_rows=True)


def test_file_that_is_not_there_and_format_that_is_not_known(make, tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"absent\.jsonl: no such file"):
        MathTask("absent.jsonl", tokenizer)
    with pytest.raises(DataError, match="no such file, and not the hub name"):
        MathTask("neither file nor name", tokenizer)
    with pytest.raises(DataError, match=r"rows\.txt: the file must be one of \.jsonl, \.json, \.parquet, \.csv"):
        make([row()], name="rows.txt")


def test_long_prompts_are_dropped_and_counted(make):
    task = make([row(), row("x" * 500)], max_prompt_tokens=200)
    assert len(task) == 1
    assert task.notes["long_prompts"] == 1
    shortest = len(f"What is 1+1?{INSTRUCTION}\n<think>\n")
    with pytest.raises(DataError, match=f"max_prompt_tokens=20 tokens; the shortest has {shortest}"):
        make([row(), row("x" * 500)], max_prompt_tokens=20)


def test_a_long_file_is_tokenized_in_parts(make, tokenizer, monkeypatch):
    """All prompts at once took eight times the memory of the task."""
    asked, call = [], type(tokenizer).__call__
    monkeypatch.setattr(
        type(tokenizer), "__call__", lambda self, texts, **how: asked.append(texts) or call(self, texts, **how)
    )
    task = make([row("x" * 500 if i in (3, 1003, 2004) else f"{i}?") for i in range(2005)], max_prompt_tokens=200)
    assert task.notes["long_prompts"] == 3
    assert not any("x" * 500 in p.prompt for p in stream(task, len(task)))
    assert [len(texts) for texts in asked if isinstance(texts, list)] == [1000, 1000, 5]


def test_every_format_gives_the_same_problems(make, tokenizer, tmp_path):
    given = rows(6)
    (tmp_path / "a.json").write_text(json.dumps(given))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(given), tmp_path / "a.parquet")
    (tmp_path / "a.csv").write_text("problem,answer\n" + "".join(f'"{r["problem"]}",{r["answer"]}\n' for r in given))
    expected = [(p.prompt, p.answer) for p in stream(make(given), 6)]
    for name in ("a.json", "a.parquet", "a.csv"):
        assert [(p.prompt, p.answer) for p in stream(MathTask(tmp_path / name, tokenizer), 6)] == expected


@pytest.mark.parametrize(("name", "content"), [("a.json", "{"), ("a.json", '{"a": 1}'), ("a.parquet", "PAR")])
def test_broken_file_is_named(tokenizer, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=name):
        MathTask(tmp_path / name, tokenizer)


def test_field_names_are_settings(make):
    task = make([{"question": "1+1?", "final": 2}], problem_field="question", answer_field="final")
    assert task.train(0).answer == "2"


@pytest.mark.parametrize(
    ("answer", "text"), [(27.0, "27"), (27, "27"), (2.5, "2.5"), (" 025 ", "025"), ("2+2=4 ... #### 1,234", "1,234")]
)
def test_answers_become_text(answer, text):
    assert answer_text(answer) == text


def test_reward_is_one_for_a_right_box_only_and_verdicts_add_up(make):
    task = make([row(answer=r"\frac{1}{2}")])
    problem = task.train(0)
    completions = [r"so \boxed{\frac{2}{4}}", r"\boxed{0.5}", r"\boxed{2}", "1/2", r"\boxed{1/2}</think>", r"\boxed{)}"]
    assert task.rewards([problem] * 6, completions) == [1, 1, 0, 0, 0, 0]
    assert task.rewards([problem], [r"\boxed{\frac{1}{2}}"]) == [1]
    assert task.verdicts == {Verdict.correct: 3, Verdict.wrong: 1, Verdict.no_answer: 2, Verdict.unparsed: 1}
    with pytest.raises(ValueError, match="zip"):
        task.rewards([problem], [])
    task.close()


def test_own_problems_are_read_and_answer_themselves(tokenizer):
    with Verifier(workers=1) as verifier:
        task = MathTask(SCHOOL, tokenizer, heldout=8, verifier=verifier)
        every = [*task.heldout, *stream(task, len(task))]
        assert len({p.id for p in every}) == len(every) == 42
        assert set(task.rewards(every, [rf"\boxed{{{p.answer}}}" for p in every])) == {1.0}
    assert not any(task.notes.values())


def test_real_problem_files(tokenizer):
    if not (DATA / "math_train.jsonl").is_file():
        pytest.skip("no folder of problem files")
    with pytest.raises(DataError, match=r"math_train\.jsonl, line 5342: field 'answer' is empty"):
        MathTask(DATA / "math_train.jsonl", tokenizer)
    task = MathTask(DATA / "math_train.jsonl", tokenizer, skip_bad_rows=True, max_prompt_tokens=4096)
    assert task.notes["skipped_rows"] == 2
    assert len(task) == 7498 - task.notes["long_prompts"]
    assert task.notes["duplicate_rows"] == 1
