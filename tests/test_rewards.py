"""The rewards that are ready to use: their formulas, on texts and on messages."""

import pytest

from dgpo.rewards import length_reward, max_length_reward, think_format_reward
from dgpo.tasks.rewards import Rewards


def reply(text):
    return [{"role": "assistant", "content": text}]


ASKED = [{"role": "user", "content": "1+1?"}]


@pytest.mark.parametrize(
    ("prompt", "text", "reward"),
    [
        ("1+1?", "<think>\n1 and\n1\n</think>\nIt is 2.", 1),
        ("1+1?", " <think></think>2", 1),
        ("1+1?", "1 and 1</think>2", 0),
        ("1+1?\n<think>\n", "1 and 1</think>2", 1),
        ("1+1?\n<think>\n", "<think>1 and 1</think>2", 0),
        ("1+1?", "2", 0),
        ("1+1?", "<think>1 and 1</think> \n", 0),
        ("1+1?", "so <think>1 and 1</think>2", 0),
        ("1+1?", "<think>1</think>2<think>3</think>4", 0),
        ("1+1?", "<think>1 and 1", 0),
    ],
)
def test_thinking_is_in_its_tags_and_an_answer_follows(prompt, text, reward):
    assert think_format_reward([prompt], [text], level=[3]) == [reward]
    if "<think>" not in prompt and text.lstrip().startswith("<think>"):
        assert think_format_reward([ASKED], [reply(text)]) == [reward]


def test_a_conversation_may_have_opened_the_tag_itself():
    assert think_format_reward([ASKED] * 2, [reply("1 and 1</think>2"), reply("2")]) == [1, 0]


def test_a_long_completion_takes_no_time():
    assert think_format_reward(["1+1?"], ["<think>" + "ab " * 100_000]) == [0]
    assert think_format_reward(["1+1?"], ["<think>" + "ab " * 100_000 + "</think>" + " " * 100_000]) == [0]


def test_lengths_are_words_beside_what_a_column_asks_for():
    texts = ["one two", "one two three four", "", "one " * 9]
    assert length_reward(texts, target_words=[2] * 4) == [0, -1, -1, -1]
    assert length_reward([reply("one two three")], target_words=[4], level=[1]) == [-0.25]
    assert max_length_reward(texts, max_words=[4] * 4) == [1, 0.5, 1, 0]
    assert max_length_reward([reply("one two three four five")], max_words=[4]) == [0.25]


def test_a_run_finds_them_by_name():
    rewards = Rewards(["dgpo.rewards:think_format_reward", "dgpo.rewards:length_reward"], workers=1)
    try:
        assert rewards(["p"], ["<think>a</think> b c"], [{"target_words": 4, "answer": "2"}]) == [0.75]
    finally:
        rewards.close()
