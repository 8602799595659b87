"""A step of the trainer with a real language model, through every door."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launch import torchrun
from running import execute, make_batch

import dgpo
from analysis import runs
from dgpo import config as configs
from dgpo.model.loading import load_lm
from dgpo.model.policy import Policy
from dgpo.run.rows import read_metrics
from dgpo.trainer import train

TWO_STEPS = {
    "steps": 2,
    "prompts_per_step": 2,
    "group_size": 4,
    "num_minibatches": 2,
    "eval_problems": 2,
    "eval_samples": 2,
    "max_new_tokens": 12,
    "checkpoint_every": 1,
    "keep_checkpoints": 2,
    "entropy_coef": 1e-3,  # so few completions hardly hold a right one, and without a reward nothing would move
}


def settings(folder, model, **more):
    return configs.load("smollm2-135m", run_dir=str(folder), model=str(model), **{**TWO_STEPS, **more})


@pytest.fixture(scope="module")
def trained(gguf, tmp_path_factory):
    """The folder of a run of two steps from the GGUF file."""
    return train(settings(tmp_path_factory.mktemp("runs") / "run", gguf))


def test_gguf_and_saved_checkpoint_are_one_policy(gguf, checkpoint):
    batch = make_batch([[1, 4093, 198], [7]], [[11, 12, 2], [40, 2]])
    with torch.no_grad():
        a, b = (Policy(load_lm(path)[0])(batch)[0] for path in (gguf, checkpoint))
    assert torch.equal(a, b)


def test_its_policy_is_an_ordinary_checkpoint(trained, checkpoint):
    lm, _ = load_lm(trained / "policy")
    before, _ = load_lm(checkpoint)
    assert not torch.equal(lm.model.norm.weight, before.model.norm.weight)
    assert (runs.read(trained).steps["updates"] == 2).all()


def test_the_command_line_and_a_resumed_run_repeat_it(trained, gguf, tmp_path):
    first = settings(tmp_path / "run", gguf, steps=1)
    train(first)
    overrides = [f"{k}={v}" for k, v in TWO_STEPS.items()]
    command = [sys.executable, "-m", "dgpo", "train", "smollm2-135m", f"run_dir={tmp_path / 'run'}", f"model={gguf}"]
    subprocess.run([*command, *overrides, "resume=true"], check=True, cwd=Path(__file__).parents[2])
    for a, b in zip(read_metrics(trained), read_metrics(tmp_path / "run"), strict=True):
        common = {k for k in a.keys() & b.keys() if not k.startswith("eval/")}  # steps=1 evaluated once more
        assert {k: a[k] for k in common} == {k: b[k] for k in common}


def test_train_notebook(gguf, tmp_path):
    parameters = {**TWO_STEPS, "recipe": "smollm2-135m", "model": str(gguf), "run_dir": str(tmp_path / "run")}
    execute("train", tmp_path / "out.ipynb", parameters)
    assert len(runs.read(tmp_path / "run").steps) == 2


def test_vllm(checkpoint, tmp_path):
    pytest.importorskip("vllm", reason="vllm is not installed: .venv-vllm/bin/python -m pytest tests/smollm2")
    run = runs.read(train(settings(tmp_path / "run", checkpoint, rollout="vllm")))
    assert (run.steps["updates"] == 2).all()
    assert run.steps["mismatch/mean_abs"].max() < 1e-4


def test_asynchronous(checkpoint, tmp_path):
    run = runs.read(train(settings(tmp_path / "run", checkpoint, asynchronous=True)))
    assert run.steps["staleness/steps"].tolist() == [0, 1]


@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks(trained, checkpoint, tmp_path, stage):
    job = settings(tmp_path / "run", checkpoint, zero_stage=stage).model_dump()
    result = torchrun([job], tmp_path)
    assert result.returncode == 0, result.stderr
    one, two = (runs.read(folder).steps.iloc[0] for folder in (trained, tmp_path / "run"))
    assert two["entropy"] == pytest.approx(one["entropy"], rel=0.05)  # a sum rounds otherwise and a word may differ


def test_evaluation_with_the_r1_prompt(trained, tmp_path):
    rows = [{"problem": f"What is {n} + 2?", "answer": str(n + 2)} for n in range(3)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"data_dir": str(tmp_path), "eval_dir": str(tmp_path / "eval"), "n": 1, "max_new_tokens": 16}
    found = dgpo.evaluate(trained / "policy", ["sums"], **settings)
    assert found.samples.keys() == {"sums"}
