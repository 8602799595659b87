"""The generated word problems of benchmarks/story.py, and the way from nothing to a sweep's report."""

import itertools
import json
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import story
from dgpo.tasks.prompts import prompt

RELATION = re.compile(r"(\w+) has (?:(\d+) )?(half as many|times as many|more|fewer)? ?\w+(?: (?:than|as) (\w+))?\.")


def solve(text: str) -> int:
    """The answer from the words alone, by looking up whom each person is compared with."""
    facts = {who: (number, how, whom) for who, number, how, whom in RELATION.findall(text)}

    def value(who):
        number, how, whom = facts[who]
        match how:
            case "":
                return int(number)
            case "half as many":
                return value(whom) // 2
            case "times as many":
                return int(number) * value(whom)
            case "more":
                return value(whom) + int(number)
        return value(whom) - int(number)

    return value(re.search(r"does (\w+) have\?$", text)[1])


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_answers_follow_from_the_words(difficulty, seed):
    rng = random.Random(seed)
    drawn = story.draw(rng, difficulty)
    assert solve(drawn.text) == int(drawn.answer)
    assert len(drawn.steps) == difficulty + 1
    assert drawn.text.count(" has ") == 2 * difficulty + 1
    worked = story.worked_example(drawn, rng, slip=0.0)
    assert worked.endswith(rf"</think>\boxed{{{drawn.answer}}}")
    for a, how, b in re.findall(r"(\d+)([-+*/]\d+)=(\d+)", worked):
        assert eval(a + how) == int(b)


def test_slips_go_on_from_the_slip():
    rng = random.Random(1)
    drawn = story.draw(rng, 6)
    worked = story.worked_example(drawn, rng, slip=1.0)
    steps = re.findall(r"(\d+)[-+*/]\d+=(-?\d+)", worked)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(steps))
    assert not worked.endswith(rf"\boxed{{{drawn.answer}}}")


def test_the_tokenizer_knows_every_word_and_the_prompt_is_the_one_of_pretraining():
    words, rng = story.tokenizer(), random.Random(0)
    for difficulty in range(1, 7):
        drawn = story.draw(rng, difficulty)
        text = prompt(drawn.text, words)
        assert text == f"{drawn.text}\n<think>"
        for part in (text, story.worked_example(drawn, rng, 0.3)):
            ids = words(part).input_ids
            assert words.unk_token_id not in ids
            assert words.decode(ids) == part


def test_from_nothing_to_the_report_and_again(tmp_path, capsys, monkeypatch):
    """Stopped within pretraining, it goes on to the same weights."""
    rl = "rl={steps: 1, prompts_per_step: 4, group_size: 4, num_minibatches: 2, max_new_tokens: 8, eval_problems: 2}"
    small = ["hidden=32", "layers=1", "heads=2", "easy=1", "hard=[2]", "batch=4", "problems=80", "steps=6"]
    whole, cut = str(tmp_path / "whole"), str(tmp_path / "cut")
    assert story.main([whole, *small, "seeds=[]"]) == 0
    monkeypatch.setattr(story, "METHODS", {key: story.METHODS[key] for key in ("grpo", "dgpo")})
    save = story.atomic_write

    def stop(target, write):
        save(target, write)
        if target.name == "pretrain.pt":
            raise KeyboardInterrupt

    monkeypatch.setattr(story, "atomic_write", stop)
    with pytest.raises(KeyboardInterrupt):
        story.main([cut, *small, "save_every=2"])
    monkeypatch.setattr(story, "atomic_write", save)
    assert story.main([cut, *small, "save_every=2", "seeds=[0]", rl]) == 0
    weights = [(tmp_path / name / "policy" / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]
    report = capsys.readouterr().out
    assert "grpo" in report
    assert "dgpo" in report
    assert json.loads((tmp_path / "cut/runs/dgpo/seed_0/summary.json").read_text())["steps"] == 1
    with pytest.raises(SystemExit, match="take another folder"):
        story.main([cut, *small[1:], "hidden=64"])
