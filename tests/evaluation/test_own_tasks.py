"""Evaluations of tasks and rewards of one's own: judged by the run's own threshold, and again from what is stored."""

import json
import sys
from contextlib import closing

import numpy as np
import pytest
from running import ROOT, SMALL, random_model
from transformers import AutoTokenizer

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import tasks
from dgpo.config import ConfigError
from dgpo.evaluation import benchmarks, run, settings

FUNCTIONS = """
def long(completions, least, **_):
    assert isinstance(least[0], float)
    return [len(c) / n for c, n in zip(completions, least)]

def fails(completions, least, **_):
    assert least[0] != 4
    return [-0.5]

def words(prompts, completions, **_):
    return [float(p[-1]["role"] == "user" and len(c[0]["content"]) >= 4) for p, c in zip(prompts, completions)]
"""


@pytest.fixture
def given(tmp_path, monkeypatch):
    (tmp_path / "judges.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "data").mkdir()
    rows = [{"problem": f"{i}+1=", "least": least} for i, least in enumerate((0.5, 4.0, 1e9))]
    (tmp_path / "data" / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    talks = [{"problem": [{"role": "user", "content": f"{i}+1="}]} for i in range(2)]
    (tmp_path / "data" / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in talks))
    template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    model = random_model(tmp_path / "model", tmp_path / "data" / "mine.jsonl", template)
    yield {"model": str(model), "data_dir": "data", "n": 3, "max_new_tokens": 8, "eval_dir": "out", "instruction": ""}
    sys.modules.pop("judges", None)


@pytest.mark.parametrize(("benchmark", "reward"), [("mine", "judges:long"), ("talks", "judges:words")])
def test_rewards_judge_a_file_by_the_threshold_and_again_from_the_folder(given, benchmark, reward):
    given |= {"benchmarks": [benchmark], "reward": reward, "right_above": 1.0}
    assert cli.main(["eval", *(f"{k}={json.dumps(v)}" for k, v in given.items())]) == 0
    (samples,) = run.read("out")
    texts = [text for frame in run.EvaluationFolder("out").completions(benchmark) for text in frame["text"]]
    least = np.repeat([0.5, 4.0, 1e9] if benchmark == "mine" else [4, 4], 3)
    right = [len(text) >= n for text, n in zip(texts, least, strict=True)]
    assert (samples.verdicts.ravel() == "correct").tolist() == right
    assert 0 < sum(right) < len(right) or benchmark == "talks"
    assert samples.sampling["reward"] == [reward]
    run.rescore("out")
    assert (next(run.read("out")).verdicts == samples.verdicts).all()


def test_a_reward_that_failed_is_wrong_even_where_negative_ones_are_right(given):
    given |= {"benchmarks": ["mine"], "reward": "judges:fails", "right_above": -1.0, "n": 1}
    run.evaluate(settings.load(**given))
    assert next(run.read("out")).verdicts.tolist() == [["correct"], ["wrong"], ["correct"]]


def test_a_task_of_ones_own_is_a_benchmark(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    own = {"benchmarks": ["sorting:Sorting"], "tiny": SMALL["tiny"] | {"steps": 20}, "difficulty": 1, "n": 2}
    own |= {"generated_problems": 4, "generated_max_new_tokens": 4, "eval_dir": "out", "temperature": 1.0, "top_p": 1.0}
    run.evaluate(settings.load(**own))
    folder = run.EvaluationFolder("out")
    (frame,) = folder.completions("sorting:Sorting")
    assert len(frame) == 8
    assert ((frame["text"] == frame["reference"]) == (frame["verdict"] == "correct")).all()
    run.rescore("out")
    assert "sorting:Sorting" in folder.identity.made_of["code"]
    sys.modules.pop("sorting", None)


def test_word_problems_are_those_of_training_and_the_verifier_judges_them(given):
    given |= {"benchmarks": ["words"], "difficulty": 2, "generated_problems": 3, "generated_max_new_tokens": 8}
    run.evaluate(config := settings.load(**given))
    folder = run.EvaluationFolder("out")
    tokenizer = AutoTokenizer.from_pretrained(given["model"])
    training = {"task": "words", "max_prompt_tokens": 2000, "eval_problems": 3, "difficulty": 2}
    training |= {"model": given["model"], "instruction": "", "date": folder.config.date}
    with closing(tasks.make(configs.load(None, **training), tokenizer)) as task:
        assert folder.problems("words")["prompt"].tolist() == [p.prompt for p in task.heldout]
        assert next(run.read("out")).verdicts.shape == (3, 3)
        run.rescore("out")
    loaded = benchmarks.load("words", config, tokenizer)
    right, *others = (rf"So \boxed{{{p.answer}}}." for p in loaded.problems)
    with benchmarks.Judge(config, [loaded]) as judge:
        found = judge("words", loaded.problems, [right, r"\boxed{-1}", others[1][:-3]], [[]] * 3)
    assert found == (["correct", "wrong", "no_answer"], [loaded.problems[0].answer, "-1", None])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"reward": "judges:absent"}, "has no 'absent'"),
        ({"reward": "judges:long", "benchmarks": ["talks"]}, "judges:long: missing a required argument: 'least'"),
        ({"reward": "judges:long", "reward_weights": [1, 2]}, "2 weights for 1 rewards"),
        ({"reward": "judges:long", "benchmarks": ["chain"]}, "judges files of problems; 'chain' judges its own"),
        ({"reward": "judges:long", "benchmarks": ["words"]}, "judges files of problems; 'words' judges its own"),
        ({"model": "tiny", "benchmarks": ["words"]}, "needs model=FOLDER; model='tiny' knows only the tokens of chain"),
        ({"benchmarks": ["nowhere:Task"]}, "no module named 'nowhere'"),
        ({"task": "sorting:Sorting"}, "an evaluation has benchmarks="),
        ({"data": "rows.jsonl"}, "an evaluation has data_dir=FOLDER"),
    ],
)
def test_what_does_not_fit_is_named_before_anything_is_sampled(given, tmp_path, changes, why):
    with pytest.raises(ConfigError, match=why):
        run.evaluate(settings.load(**{**given, "benchmarks": ["mine"], **changes}))
    assert not (tmp_path / "out").exists()
