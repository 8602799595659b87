"""A task of one's own that lacks something, or gives what is no reward: one line that names it."""

import pytest

from dgpo import config as configs
from dgpo import tasks
from dgpo.config import ConfigError
from dgpo.tasks.base import TaskError

WHOLE = """
from dgpo.tasks import Problem, Task

class Whole(Task):
    def __init__(self, config, tokenizer):
        self.heldout = [Problem("h", "1=", "1")]

    def train(self, position):
        return Problem(str(position), "1=", "1")

    def rewards(self, problems, completions):
        return [float(c == p.answer) for p, c in zip(problems, completions)]

class NoHeldout(Whole):
    def __init__(self, config, tokenizer): ...

class Empty(Whole):
    def __init__(self, config, tokenizer):
        self.heldout = []

class Tuples(Whole):
    def train(self, position):
        return ("1=", "1")

class Broken(Whole):
    def __init__(self, config, tokenizer):
        open("words.txt")

class Alone(Whole):
    def __init__(self): ...

class Judge(Whole):
    values = []

    def rewards(self, problems, completions):
        return self.values
"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    (tmp_path / "whole.py").write_text(WHOLE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "whole", raising=False)
    return lambda name: tasks.make(configs.load("tiny", task=f"whole:{name}"), None)


def test_three_things_are_enough(made):
    """As notebook 9 says: held-out problems, a stream of others, rewards."""
    task = made("Whole")
    assert task.score(task.heldout, ["1"], [[1]]) == [1]
    assert (task.notes, task.verdicts) == ({}, {})


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("NoHeldout", "cannot be made: AttributeError: 'NoHeldout' object has no attribute 'heldout'"),
        ("Empty", "has no held-out problems"),
        ("Tuples", r"\('1=', '1'\) is no dgpo.tasks.Problem"),
        ("Broken", r"cannot be made: FileNotFoundError: .*words.txt.*whole.py, line \d+, in __init__"),
        ("Alone", "cannot be made: TypeError: .*positional argument"),
    ],
)
def test_what_it_lacks_is_named_before_anything_is_sampled(made, name, why):
    with pytest.raises(ConfigError, match=f"task='whole:{name}'.* {why}".replace(".* is", ".*is")):
        made(name)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([1.0], "rewards returned 1 values for 2 completions"),
        (None, "rewards returned None for 2 completions"),
        (["1", "0"], "rewards returned '1' for 'h'; expected a finite number"),
        ([0.0, float("nan")], "rewards returned nan for 'h'; expected a finite number"),
        ([None, 1.0], "rewards returned None for 'h'"),
    ],
)
def test_what_is_no_reward_is_named(made, values, why):
    task = made("Judge")
    task.values = values
    with pytest.raises(TaskError, match=f"task='whole:Judge': {why}"):
        task.score(task.heldout * 2, ["1", "1"], [[1], [1]])
