"""Problems that are conversations: which are allowed, and the error for each other one."""

import pytest

from dgpo.data.files import FileRow, checked_rows, row_fault
from dgpo.data.messages import messages_fault, problem_text

ASKED = {"role": "user", "content": "1+1?"}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "has no message"),
        (["1+1?"], "message 1 is str '1+1?', not an object with 'role' and 'content'"),
        ([{"content": "1+1?"}], "message 1 has no 'role'; each needs a 'role' and a 'content'"),
        ([ASKED, {"role": "user"}], "message 2 has no 'content'"),
        ([{"role": "user", "content": None}], "message 1 has None as 'content', not text"),
        (
            [{"role": "human", "content": "1+1?"}],
            "message 1 has the role 'human', not one of system, user, assistant, tool",
        ),
        (
            [ASKED, {"role": "assistant", "content": "2"}],
            "the last message is by 'assistant'; end with one by user or tool",
        ),
        ([{"role": "user", "content": " "}], "the last message is empty"),
    ],
)
def test_what_is_no_conversation_is_named_with_its_field(messages, said):
    assert messages_fault(messages).startswith(said)
    row = FileRow(1, {"prompt": messages, "answer": "2"})
    assert row_fault(row, "prompt", "answer").startswith(f"field 'prompt': {said}")


def test_a_conversation_is_a_problem_whose_text_is_that_of_its_messages():
    messages = [{"role": "system", "content": "Add."}, ASKED]
    assert row_fault(FileRow(1, {"prompt": messages, "answer": "2"}), "prompt", "answer") == ""
    assert problem_text(messages) == "Add.\n1+1?"
    half = [{"role": "user", "content": "\ud800"}]
    assert "lone surrogate" in row_fault(FileRow(1, {"prompt": half, "answer": "2"}), "prompt", "answer")


def test_texts_and_conversations_do_not_mix(tmp_path):
    rows = '{"p": [], "a": 1}\n{"p": "1+1?", "a": 2}\n{"p": [{"role": "user", "content": "1+2?"}], "a": 3}\n'
    (tmp_path / "a.jsonl").write_text(rows)
    faults = [fault for _, fault in checked_rows(tmp_path / "a.jsonl", "utf-8", "p", "a")]
    assert faults == [
        "field 'p': has no message",
        "",
        "field 'p' is a list of messages and in line 2 a text: make all rows alike",
    ]
