"""Tasks and rewards of one's own: they train, they may fail, and they cost little."""

import json
import sys

import pytest
from running import ROOT, SMALL, rows, run

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import tasks
from dgpo.config import ConfigError
from dgpo.run import identity
from dgpo.tasks.custom import RewardTask
from dgpo.tasks.rewards import RewardError, Rewards

FUNCTIONS = """
import asyncio, os, time

def length(prompts, completions, **columns):
    return [float(len(c)) for c in completions]

async def later(completions, **_):
    await asyncio.sleep(0)
    return [None if c == "none" else 0.5 for c in completions]

def column(completions, answer, level, **_):
    print("this is no answer")
    return [float(a == c) * l for a, c, l in zip(answer, completions, level)]

def tokens(completion_ids, **_):
    assert all(type(i) is int for i in completion_ids[0])
    return [float(len(ids)) for ids in completion_ids]

def wild(completions, **_):
    what = completions[0]
    if what == "hang":
        time.sleep(1000)
    if what == "raise":
        raise RuntimeError("no\\nreward")
    if what == "die":
        os._exit(1)
    return {"text": ["x"], "nan": [float("nan")], "two": [1, 2], "none": None}.get(what, [1])

number = 5
"""


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "ours.py").write_text(FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
def made():
    """`Rewards(...)`, ended after the test."""
    open_ = []

    def make(*names, **settings):
        open_.append(Rewards(names, workers=settings.pop("workers", 1), **settings))
        return open_[-1]

    yield make
    for rewards in open_:
        rewards.close()


class TestRewards:
    def test_the_weighted_sum_of_functions_as_trl_calls_them(self, functions, made):
        rewards = made("ours:length", "ours:later", "ours:column", weights=[1, 10, 100], workers=2)
        columns = [{"answer": "ab", "level": 2}, {"answer": "x", "level": 3}]
        assert rewards(["p", "q"], ["ab", "none"], columns) == [2 + 5 + 200, 4]
        assert rewards.means() == {"length": (6, 2), "later": (0.5, 1), "column": (2, 2)}
        assert rewards.means() == {"length": (0, 0), "later": (0, 0), "column": (0, 0)}

    @pytest.mark.parametrize(
        ("what", "why"),
        [
            ("hang", "took more than reward_timeout=0.5 s"),
            ("raise", "RuntimeError: no reward"),
            ("die", "it ended its process"),
            ("text", "wild returned 'x'; expected a finite number or None"),
            ("nan", "wild returned nan"),
            ("two", "expected a list of one number"),
            ("none", "wild returned None for one completion"),
        ],
    )
    def test_one_that_fails_costs_its_own_completion(self, functions, made, capsys, what, why):
        rewards = made("ours:wild", timeout=0.5)
        completions = ["a"] * 8 + [what] + ["a"] * 8
        assert rewards(completions, completions, [{}] * 17) == [1.0] * 8 + [None] + [1.0] * 8
        assert rewards.failed == 1
        assert why in capsys.readouterr().err

    def test_token_ids_reach_functions_that_take_them_and_no_others(self, functions, made):
        (functions / "bare.py").write_text("def bare(prompts, completions):\n    return [10.0]\n")
        rewards = made("ours:tokens", "bare:bare", "ours:length")
        rewards.check([], "row 1")
        assert rewards(["p"] * 2, ["ab", ""], [{}] * 2, [[5, 6, 7], []]) == [3 + 10 + 2, 10]

    def test_many_failures_stop_the_run(self, functions, made):
        with pytest.raises(RewardError, match="2 of 4 rewards failed, the first: ours:wild: RuntimeError"):
            made("ours:wild")(["p"] * 4, ["raise", "a", "raise", "a"], [{}] * 4)

    def test_what_it_or_its_children_read_is_not_the_next_row(self, functions, made):
        text = "import subprocess, sys\n\ndef f(completions, **_):\n"
        text += (
            "    assert sys.stdin.read() == ''\n    return [len(subprocess.run(['cat'], capture_output=True).stdout)]\n"
        )
        (functions / "reads.py").write_text(text)
        assert made("reads:f", timeout=30)(["p"] * 3, ["a"] * 3, [{}] * 3) == [0, 0, 0]

    def test_functions_of_one_name_are_told_apart(self, functions, made):
        (functions / "more.py").write_text("def length(completions, **_):\n    return [1.0]\n")
        rewards = made("ours:length", "more:length", "ours:later")
        rewards(["p"], ["abc"], [{}])
        assert rewards.means() == {"ours:length": (3, 1), "more:length": (1, 1), "later": (0.5, 1)}

    def test_a_module_that_ends_the_process_is_not_called_slow(self, functions):
        (functions / "ends.py").write_text("import os\nos._exit(1)\n")
        with pytest.raises(ConfigError, match=r"reward=ends:f: its import ended the process"):
            Rewards(["ends:f"], workers=1)

    @pytest.mark.parametrize(
        ("name", "why"),
        [("ours:absent", "has no 'absent'"), ("nowhere:f", "no module named"), ("ours:number", "int, not a function")],
    )
    def test_what_cannot_be_imported_is_named_before_training(self, functions, name, why):
        with pytest.raises(ConfigError, match=f"reward={name}: .*{why}"):
            Rewards([name], workers=1)

    def test_a_completion_is_one_line_to_a_process_and_one_back(self, functions, made, monkeypatch):
        """What it costs more than a call in this process, counted: 256 of them take some hundredths of a second."""
        rewards, lines = made("ours:length"), []
        answer = rewards._workers[0]._line
        monkeypatch.setattr(rewards._workers[0], "_line", lambda timeout: lines.append(answer(timeout)) or lines[-1])
        assert rewards(["p"] * 256, ["abc"] * 256, [{}] * 256) == [3.0] * 256
        assert len(lines) == 256


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task": "maths"}, "task='maths' must be one of 'chain', 'countdown', 'words', 'math', or module:Class"),
        ({"reward": "ours:length"}, "needs task='math'"),
        ({"task": "math", "data": "x", "model": "y", "reward": "length"}, "must be module:function"),
        ({"task": "math", "data": "x", "model": "y", "reward": ["a:b"], "reward_weights": [1, 2]}, "2 weights for 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        configs.load("tiny", **settings)


def test_a_run_with_a_reward_of_ones_own(functions, checkpoint, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"problem": f"{i}+1=", "level": i}) + "\n" for i in range(40)))
    settings = {k: v for k, v in SMALL.items() if k not in ("tiny", "difficulty")}
    settings |= {"task": "math", "data": str(data), "model": str(checkpoint), "max_prompt_tokens": 200, "steps": 2}
    settings |= {
        "reward": ["ours:length", "ours:later", "ours:tokens"],
        "reward_weights": [1, 1, 0],
        "right_above": 3.0,
        "instruction": "",
        "run_dir": "run",
    }
    folder = run(settings)
    for row in rows(folder)[1:]:
        assert row["reward/mean"] == pytest.approx(row["reward/length"] + row["reward/later"])
        assert row["reward/tokens"] == pytest.approx(row["length/mean"])
        assert row["verdict/right"] + row.get("verdict/wrong", 0) == pytest.approx(1)
    assert rows(folder)[0]["eval/reward"] > 0
    made_of = json.loads((folder / "identity.json").read_text())["made_of"]["code"]
    assert made_of["ours:length"] == identity.file_hashes([tmp_path / "ours.py"])[0]
    (tmp_path / "ours.py").write_text(FUNCTIONS + "\n# changed\n")
    with pytest.raises(ConfigError, match="code: ours:length changed since the start"):
        run(settings, resume=True, steps=3)


def test_problems_reach_rewards_with_their_columns_and_answers_may_be_absent(functions, checkpoint, made, tmp_path):
    from transformers import AutoTokenizer

    data = tmp_path / "rows.jsonl"
    data.write_text('{"problem": "1+1=", "answer": "2", "level": 3}\n{"problem": "1+2=", "level": 4}\n')
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    settings = {"heldout": 1, "instruction": "", "system_prompt": "Sum."}
    task = RewardTask(data, tokenizer, rewards=made("ours:length"), threshold=1.0, **settings)
    problems = [*task.heldout, task.train(0)]
    assert {p.answer for p in problems} == {"2", ""}
    assert all("Sum." in p.prompt for p in problems)
    assert task.rewards(problems, ["abc", ""]) == [3, 0]
    assert task.verdicts == {"right": 1, "wrong": 1, "failed": 0}


@pytest.mark.parametrize("what", ["raise", "nan", "die", "hang"])
def test_a_reward_that_failed_is_not_right_whatever_counts_as_right(functions, checkpoint, made, tmp_path, what):
    from transformers import AutoTokenizer

    (tmp_path / "rows.jsonl").write_text('{"problem": "1+1="}\n{"problem": "1+2="}\n')
    settings = {"rewards": made("ours:wild", timeout=0.5), "threshold": -1.0, "heldout": 1, "instruction": ""}
    task = RewardTask(tmp_path / "rows.jsonl", AutoTokenizer.from_pretrained(checkpoint), **settings)
    assert task.score([task.train(0)] * 2, ["a", what], [[1], [2]]) == [1, None]
    assert task.verdicts == {"right": 1, "wrong": 0, "failed": 1}
    assert task.rewards([task.train(0)], [what]) == [0]


CONVERSATION = [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}]
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
OF_TRL = """
import re

def format_reward_func(completions, **kwargs):
    pattern = r"^<think>.*?</think><answer>.*?</answer>$"
    completion_contents = [completion[0]["content"] for completion in completions]
    matches = [re.match(pattern, content) for content in completion_contents]
    return [1.0 if match else 0.0 for match in matches]

def reward_func(completions, ground_truth, **kwargs):
    matches = [re.search(r"\\\\boxed\\{(.*?)\\}", completion) for completion in completions]
    contents = [match.group(1) if match else "" for match in matches]
    return [1.0 if c == gt else 0.0 for c, gt in zip(contents, ground_truth)]

def get_soft_overlong_punishment(max_completion_len, soft_punish_cache):
    def soft_overlong_punishment_reward(completion_ids, **kwargs):
        rewards = []
        for ids in completion_ids:
            over = len(ids) - max_completion_len + soft_punish_cache
            rewards.append(-1.0 if len(ids) > max_completion_len else min(0.0, -over / soft_punish_cache))
        return rewards
    return soft_overlong_punishment_reward

overlong = get_soft_overlong_punishment(max_completion_len=100, soft_punish_cache=20)

def seen(prompts, completions, **kwargs):
    return [float(prompts == [[{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1="}]]
                  and completions == [[{"role": "assistant", "content": "2"}]])]
"""


class TestConversations:
    @pytest.fixture
    def task(self, functions, checkpoint, made, tmp_path):
        """A task of one row, made with settings of its own."""
        from transformers import AutoTokenizer

        (tmp_path / "of_trl.py").write_text(OF_TRL)

        def make(row, *names, template=TEMPLATE, **settings):
            (tmp_path / "rows.jsonl").write_text(json.dumps(row))
            tokenizer = AutoTokenizer.from_pretrained(checkpoint)
            tokenizer.chat_template = template
            settings = {"problem_field": "prompt", "rewards": made(*names), "threshold": 1.0, **settings}
            return RewardTask(tmp_path / "rows.jsonl", tokenizer, **settings)

        return make

    def test_messages_go_through_the_template_as_they_stand_and_reach_the_rewards(self, task):
        made = task({"prompt": CONVERSATION}, "of_trl:seen", "of_trl:format_reward_func")
        problem = made.train(0)
        assert problem.prompt == "<system>Add.<user>1+1=<assistant>"
        assert problem.messages == CONVERSATION
        texts = ["2", "<think>1+1</think><answer>2</answer>"]
        assert made.rewards([problem] * 2, texts) == [1, 1]

    def test_a_factory_of_trl_that_reads_token_ids(self, task):
        made = task({"prompt": CONVERSATION}, "of_trl:overlong")
        assert made.score([made.train(0)] * 3, ["2"] * 3, [[1] * 80, [1] * 90, [1] * 101]) == [0, -0.5, -1]

    def test_plain_rows_stay_texts(self, task):
        made = task({"prompt": "1+1=", "ground_truth": "2"}, "of_trl:reward_func", instruction="")
        assert made.train(0).messages is None
        assert made.rewards([made.train(0)] * 2, ["so \\boxed{2}", "2"]) == [1, 0]

    @pytest.mark.parametrize(
        ("settings", "why"),
        [
            ({"template": None}, "its chat template is needed for problems that are messages, and it has none"),
            ({"system_prompt": "Sum."}, "system_prompt='Sum.' has no effect on problems that are messages"),
            ({"instruction": "Sum."}, "instruction='Sum.' has no effect on problems that are messages"),
        ],
    )
    def test_what_does_not_fit_them_is_refused(self, task, settings, why):
        with pytest.raises(ConfigError, match=why):
            task({"prompt": CONVERSATION}, "of_trl:seen", **settings)

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            (
                "ours:column",
                "reward=ours:column: missing a required argument: 'level'; row rows:1 of .* has the columns",
            ),
            (
                "ours:narrow",
                "reward=ours:narrow: got an unexpected keyword argument 'answer'; .* end its parameters with",
            ),
        ],
    )
    def test_a_function_that_does_not_fit_the_columns_is_named_before_training(self, task, functions, name, why):
        (functions / "ours.py").write_text(FUNCTIONS + "\ndef narrow(prompts, completions):\n    return [1.0]\n")
        with pytest.raises(ConfigError, match=why):
            task({"prompt": "1+1=", "answer": "2"}, name)


class TestTask:
    @pytest.fixture
    def example(self, tmp_path, monkeypatch):
        """The task of the documentation, as it stands there."""
        page = (ROOT / "docs" / "your_own.md").read_text()
        (tmp_path / "sorting.py").write_text(page.split("```python\n# sorting.py\n")[1].split("```")[0])
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
        yield "sorting:Sorting"
        sys.modules.pop("sorting", None)

    def test_it_trains_by_the_command_line_and_resumes(self, example, tmp_path):
        words = [f"task={example}", "difficulty=2", "tiny={hidden: 32, steps: 20, max_difficulty: 2}", "run_dir=run"]
        words += ["prompts_per_step=4", "group_size=4", "num_minibatches=2", "eval_problems=4", "eval_samples=2"]
        assert cli.main(["train", "tiny", *words, "steps=2"]) == 0
        assert cli.main(["train", "tiny", *words, "steps=3", "resume=true"]) == 0
        assert len(rows(tmp_path / "run")) == 4
        row = rows(tmp_path / "run")[-1]
        assert 0 <= row["reward/mean"] <= 1
        assert f"task: {example}" in (tmp_path / "run" / "config.yaml").read_text()

    def test_its_rewards_and_problems(self, example):
        config = configs.load("tiny", task=example, difficulty=3, eval_problems=5)
        task = tasks.make(config, tasks.task_class(config.task).tokenizer())
        problem = task.train(0)
        assert task.train(0) == problem
        assert problem.answer == "".join(sorted(problem.prompt[:-1]))
        assert task.rewards([problem] * 2, [problem.answer, "x"])[0] == 1
        assert not {p.prompt for p in task.heldout} & {task.train(i).prompt for i in range(50)}

    @pytest.mark.parametrize(
        ("task", "words"),
        [
            ("nowhere:Task", "no module named 'nowhere'"),
            ("json:JSONDecoder", "must be a class derived from dgpo.tasks.Task"),
            ("collections:Nothing", "has no 'Nothing'"),
        ],
    )
    def test_what_is_no_task_is_named(self, task, words):
        with pytest.raises(ConfigError, match=words):
            tasks.task_class(task)

    @pytest.mark.parametrize("method", ["train", "rewards"])
    def test_a_class_without_a_method_is_named(self, tmp_path, monkeypatch, method):
        other = {"train": "rewards", "rewards": "train"}[method]
        text = f"from dgpo.tasks import Task\n\nclass Half(Task):\n    def {other}(self, *_): ...\n"
        (tmp_path / f"no_{method}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        with pytest.raises(ConfigError, match=f"task='no_{method}:Half' has no method '{method}'"):
            tasks.task_class(f"no_{method}:Half")

    def test_without_words_of_its_own_it_needs_a_model(self, tmp_path, monkeypatch):
        (tmp_path / "bare.py").write_text(
            "from dgpo.tasks import Task\n\nclass Bare(Task):\n    train = rewards = print\n"
        )
        monkeypatch.syspath_prepend(tmp_path)
        from dgpo.model.tiny import load_policy

        with pytest.raises(ConfigError, match=r"model='tiny' needs bare:Bare\.tokenizer, .*or model=FOLDER"):
            load_policy(configs.load("tiny", task="bare:Bare"))
