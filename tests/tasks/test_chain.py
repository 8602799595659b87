"""The generated task and the small policy that is warmed up for it."""

import itertools
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from dgpo.config_parts import TinyPolicy
from dgpo.model import tiny
from dgpo.tasks import chain
from dgpo.tasks.chain import ChainTask


@given(st.integers(1, 6), st.integers(0, 10**6))
def test_answers_are_the_chain_worked_from_the_left_modulo_ten(difficulty, seed):
    problem = chain.draw(random.Random(seed), difficulty, heldout=False)
    value = 0
    for sign, digit in re.findall(r"([-+*])(\d)", "+" + problem.id):
        value = {"+": value + int(digit), "-": value - int(digit), "*": value * int(digit)}[sign] % 10
    assert problem.answer == str(value)
    assert problem.prompt == problem.id + "="
    assert len(re.findall(r"[-+*]", problem.id)) == difficulty


def test_train_and_heldout_problems_are_disjoint():
    task = ChainTask(difficulty=1, seed=0, heldout=20)
    train = {task.train(i).id for i in range(3000)}
    assert len(train) > 200
    assert not train & {p.id for p in task.heldout}
    assert all(chain.is_heldout(p.id) for p in task.heldout)
    assert len({p.id for p in task.heldout}) == 20


def test_the_stream_is_a_function_of_seed_and_position_and_the_heldout_set_of_neither():
    a, b = ChainTask(4, seed=0, heldout=16), ChainTask(4, seed=1, heldout=16)
    assert [a.train(i) for i in (7, 3, 7)] == [ChainTask(4, 0, 16).train(i) for i in (7, 3, 7)]
    assert [a.train(i) for i in range(8)] != [b.train(i) for i in range(8)]
    assert a.heldout == b.heldout


def test_more_heldout_problems_than_there_are():
    with pytest.raises(ValueError, match=r"eval_problems=500 must be at most 30 at difficulty=1"):
        ChainTask(1, 0, 500)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        (r"<think>7+5=2</think>\boxed{2}", "2"),
        (r"\boxed{1}\boxed{2}", "2"),
        (r"\boxed{1}\boxed{2", "1"),
        ("the answer is 2", None),
        (r"\boxed{", None),
        ("", None),
    ],
)
def test_the_last_closed_box_is_the_answer(completion, answer):
    assert chain.final_answer(completion) == answer


def test_rewards_are_exact():
    task = ChainTask(1, 0, 2)
    problem = task.train(0)
    wrong = str((int(problem.answer) + 1) % 10)
    completions = [
        rf"\boxed{{{problem.answer}}}",
        rf"\boxed{{{wrong}}}",
        rf"\boxed{{0{problem.answer}}}",
        problem.answer,
    ]
    assert task.rewards([problem] * 4, completions) == [1.0, 0.0, 0.0, 0.0]


def test_worked_examples_slip_as_often_as_asked_and_go_on_from_the_slip():
    rng = random.Random(0)
    right = total = 0
    for _ in range(500):
        problem = chain.draw(rng, 4, heldout=False)
        steps = chain.solve(problem.id, rng, step_error_rate=0.3)
        for before, after in itertools.pairwise(steps):
            assert after[0] == before[-1]
        right += sum(chain.solve(s[:3])[0] == s for s in steps)
        total += len(steps)
    assert right / total == pytest.approx(0.7, abs=0.03)
    assert (
        chain.worked_example(problem, rng, 0.0)
        == f"<think>{';'.join(chain.solve(problem.id))}</think>\\boxed{{{problem.answer}}}"
    )


def test_the_tokenizer_survives_saving_and_loses_nothing(tmp_path):
    chain.tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    problem = chain.draw(random.Random(0), 4, heldout=False)
    text = problem.prompt + chain.worked_example(problem, random.Random(0), 0.3)
    ids = tokenizer(text).input_ids
    assert tokenizer.decode(ids) == text
    assert len(ids) + 1 == chain.prompt_tokens(4) + chain.completion_tokens(4)


def test_the_warmed_up_policy_is_an_ordinary_checkpoint_cached_by_its_settings(checkpoint, monkeypatch):
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(checkpoint), AutoTokenizer.from_pretrained(checkpoint)
    assert len(tokenizer) == lm.config.vocab_size  # loaded as a Qwen2 tokenizer it must not grow words of its own
    assert lm.config.model_type == "qwen2"
    settings = TinyPolicy.model_validate_json((checkpoint / "tiny.json").read_text())
    monkeypatch.setattr(tiny, "warm_up", lambda settings: pytest.fail("trained again"))
    assert tiny.checkpoint(settings) == checkpoint
    assert tiny.key(settings) != tiny.key(settings.model_copy(update={"step_error_rate": 0.2}))


def test_an_interrupted_warm_up_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny, "warm_up", interrupted)
    with pytest.raises(KeyboardInterrupt):
        tiny.checkpoint(TinyPolicy(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_warm_up_repeats_itself_and_leaves_global_random_state_alone():
    import torch

    settings = TinyPolicy(hidden=16, layers=1, heads=2, max_difficulty=1, steps=20, batch=4)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = tiny.warm_up(settings)
    assert torch.equal(torch.rand(1), expected)
    second = tiny.warm_up(settings)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
