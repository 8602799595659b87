"""The real path with real problems: a byte-level BPE tokenizer, a Qwen2 with random weights, two optimizer steps."""

import json
from collections import Counter

import pytest
from running import TEMPLATE, random_model, some_problems

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo.run.rows import read_rows
from dgpo.trainer import train


@pytest.fixture(scope="module")
def problems(tmp_path_factory):
    """A few hundred rows of GSM8K where the file is."""
    return some_problems(tmp_path_factory.mktemp("data") / "problems.jsonl", "gsm8k_train", 300)


@pytest.fixture(scope="module", params=["chat template", "plain"])
def model(request, problems, tmp_path_factory):
    template = TEMPLATE if request.param == "chat template" else None
    return random_model(tmp_path_factory.mktemp("model"), problems, template)


def settings(model, problems, tmp_path, **overrides):
    return {
        "run_dir": str(tmp_path / "run"),
        "task": "math",
        "model": str(model),
        "data": str(problems),
        "method": "dgpo",
        "steps": 2,
        "prompts_per_step": 4,
        "group_size": 2,
        "num_minibatches": 2,
        "max_prompt_tokens": 400,
        "max_new_tokens": 16,
        "eval_problems": 4,
        "eval_samples": 2,
        "eval_every": 2,
        **overrides,
    }


def test_two_steps_on_real_problems(model, problems, tmp_path, monkeypatch):
    """Random weights box nothing, so the first words of every other completion are replaced by the right answer."""
    from dgpo.tasks.math import MathTask

    judged = Counter()
    original = MathTask.rewards

    def helped(self, problems, completions):
        texts = [
            rf"\boxed{{{p.answer}}}" if i % 2 else c for i, (p, c) in enumerate(zip(problems, completions, strict=True))
        ]
        rewards = original(self, problems, texts)
        judged.update(zip((i % 2 for i in range(len(rewards))), rewards, strict=True))
        return rewards

    monkeypatch.setattr(MathTask, "rewards", helped)
    folder = train(configs.make(settings(model, problems, tmp_path)))
    rows = read_rows(folder / "metrics.jsonl")
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert set(judged) == {(0, 0.0), (1, 1.0)}
    for row in rows[1:]:
        assert row["reward/mean"] == 0.5
        assert row["updates"] == 2
        assert row["grad_norm/mean"] > 0
        assert row["verdict/correct"] == 0.5
        assert row["mismatch/mean_abs"] < 1e-5
    assert "long_prompts" in json.loads((folder / "summary.json").read_text())["left_out"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"data": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"problem_field": "question"}, "no field 'question'; the row has 'id'"),
        ({"max_prompt_tokens": 3}, "max_prompt_tokens=3"),
        ({"eval_problems": 4000}, "too few for eval_problems=4000"),
    ],
)
def test_data_that_does_not_serve_is_a_clear_error_and_leaves_no_run(
    model, problems, tmp_path, overrides, said, capsys
):
    words = [f"{k}={json.dumps(v)}" for k, v in settings(model, problems, tmp_path, **overrides).items()]
    assert cli.main(["train", "tiny", *words]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_broken_rows_are_named_by_line_or_skipped_and_counted(model, problems, tmp_path, capsys):
    broken = tmp_path / "broken.jsonl"
    lines = problems.read_text().splitlines()[:40]
    lines[2:2] = ['{"problem": "1+1"', '{"problem": "2+2", "answer": ""}']
    broken.write_text("\n".join(lines))
    words = [f"{k}={json.dumps(v)}" for k, v in settings(model, broken, tmp_path, steps=1).items()]
    assert cli.main(["train", "tiny", *words]) == 2
    assert "broken.jsonl, line 3" in capsys.readouterr().err
    assert cli.main(["train", "tiny", *words, "skip_bad_rows=true"]) == 0
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["left_out"]["skipped_rows"] == 2
