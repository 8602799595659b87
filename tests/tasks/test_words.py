"""Generated word problems: the arithmetic, the split, the prompt and the judge."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgpo import config as configs
from dgpo import tasks
from dgpo.config import ConfigError
from dgpo.tasks import words


class Tokenizer:
    """One token a word; no chat template."""

    bos_token_id = bos_token = None
    name_or_path = "plain"

    def __call__(self, text, **_):
        return type("Encoded", (dict,), {"input_ids": property(lambda self: self["input_ids"])})(
            input_ids=[*range(len(text.split()))]
        )


def make(**settings):
    defaults = {"task": "words", "model": "folder", "difficulty": 2, "max_prompt_tokens": 400, "eval_problems": 16}
    return tasks.make(configs.load(None, **{**defaults, **settings}), Tokenizer())


@given(st.integers(1, 4), st.integers(0, 10**6), st.booleans())
def test_the_story_tells_the_calculation_and_the_worked_answer_is_its_value(difficulty, seed, heldout):
    text, calculation = words.draw(random.Random(seed), difficulty, heldout)
    told = re.findall(r"\d+", text)
    assert told[: difficulty + 1] == re.findall(r"\d+", calculation)
    assert len(told) == difficulty + 1 + (difficulty > 2)  # and a number that has no part in it
    assert words.is_heldout(calculation) == heldout
    assert words.worked(calculation).endswith(f"\\boxed{{{eval(calculation)}}}.")  # Python works from the left too
    for a, sign, b, result in words.steps_of(calculation):
        assert result == eval(f"{a}{sign}{b}") > 0


def test_no_heldout_calculation_is_trained_on_in_other_words():
    task = make(difficulty=1, eval_problems=64)
    sums = {(*re.findall(r"\d+", p.id), p.answer) for p in task.heldout}
    train = {(*re.findall(r"\d+", task.train(i).id), task.train(i).answer) for i in range(1500)}
    assert len(task.heldout) == len({p.id for p in task.heldout}) == 64
    assert len(train) > 60
    assert not sums & train


def test_the_stream_is_a_function_of_seed_and_position_and_the_heldout_set_of_neither():
    a, b = make(seed=0), make(seed=1)
    assert [a.train(i) for i in (7, 3, 7)] == [make(seed=0).train(i) for i in (7, 3, 7)]
    assert [a.train(i).id for i in range(8)] != [b.train(i).id for i in range(8)]
    assert a.heldout == b.heldout


def test_worked_examples_come_before_the_problem_and_are_no_heldout_ones():
    task = make(difficulty=2, instruction=" Go.")
    prompt = task.train(0).prompt
    assert prompt.count("\\boxed{") == words.EXAMPLES
    assert prompt.index("\\boxed{") < prompt.index(task.train(0).id)
    assert task.train(0).id + " Go." in prompt
    assert not any(p.id in prompt for p in task.heldout)


def test_the_last_box_decides():
    task = make()
    problem = task.train(0)
    right, wrong = f"The answer is \\boxed{{{problem.answer}}}.", "\\boxed{-1}"
    assert task.rewards([problem] * 4, [right, wrong, right + wrong, problem.answer]) == [1, 0, 0, 0]
    assert task.verdicts == {"correct": 1, "wrong": 2, "no_answer": 1}
    task.close()


def test_limits_that_leave_no_room():
    with pytest.raises(ConfigError, match=r"max_prompt_tokens=20 must be at least \d+"):
        make(max_prompt_tokens=20)
    with pytest.raises(ConfigError, match="eval_problems=2000 must be at most 1000 at difficulty=1"):
        make(difficulty=1, eval_problems=2000)
    with pytest.raises(ConfigError, match="task='words' needs model=FOLDER"):
        configs.load(None, task="words")
