"""What the policy reads: the checkpoint's chat template, the ways it can fail, and the day that it writes."""

from contextlib import closing, nullcontext
from datetime import date

import pandas as pd
import pytest
from running import random_model, some_problems
from transformers import AutoTokenizer

from dgpo import config as configs
from dgpo import tasks
from dgpo.config import ConfigError
from dgpo.data.files import DataError
from dgpo.evaluation import run as evaluation
from dgpo.evaluation import settings
from dgpo.run import folder as runfolder
from dgpo.run import identity
from dgpo.run.folder import RunFolder
from dgpo.tasks import chain
from dgpo.tasks.prompts import prompt, read_examples

LLAMA_32 = """{%- if not date_string is defined %}{%- set date_string = strftime_now("%d %b %Y") %}{%- endif %}
Today: {{ date_string }} {{ messages[0].content }}"""
LLAMA_31 = """{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
Today: {{ date_string }} {{ messages[0].content }}"""


@pytest.fixture
def tokenizer():
    tokenizer = chain.tokenizer()
    tokenizer.name_or_path = "folder"
    return tokenizer


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ("{{ raise_exception('No user here') }}", "fails: TemplateError: No user here"),
        ("{% for m in messages %}{{ m.content }", "fails: TemplateSyntaxError: unexpected"),
        ("{{ messages[0].content.no.such }}", "fails: UndefinedError: "),
        ("{{ 1 // 0 }}", "fails: ZeroDivisionError: "),
        ({"tool_use": "x", "rag": "y"}, "fails: ValueError: .* no default"),
        ("{# #}", "renders nothing"),
        ("Assistant:", "leaves out the problem and renders 'Assistant:'"),
        ("{% for part in messages[0].content %}{{ part.text }}{% endfor %}", "renders nothing"),
        ("{{ messages[0].content[:9] }}", "leaves out the problem and renders 'What is 1'"),
    ],
)
def test_a_template_that_does_not_serve_is_named_with_its_model(tokenizer, template, fault):
    tokenizer.chat_template = template
    with pytest.raises(ConfigError, match=f"^model='folder': its chat template {fault}"):
        prompt("What is 1+1?", tokenizer)


def test_a_template_may_trim_and_leave_out_the_instruction(tokenizer):
    tokenizer.chat_template = "{{ messages[0].content | trim | replace('\n', ' ') }}"
    assert prompt("One\n\n  line", tokenizer).startswith("One    line Please")
    tokenizer.chat_template = "{{ messages[0].content.split('\n')[0] }}"
    assert prompt("One line", tokenizer) == "One line"


class TestExamples:
    @pytest.fixture
    def file(self, tmp_path):
        path = tmp_path / "examples.jsonl"
        path.write_text('{"q": "1+1?", "a": "2, of course. #### 2"}\n{"q": "1+2?", "a": "3"}\n')
        return path

    def test_they_are_earlier_turns_of_the_chat_or_text_before_the_problem(self, tokenizer, file):
        pairs = read_examples(str(file), "q", "a")
        assert pairs == (("1+1?", "2, of course. #### 2"), ("1+2?", "3"))
        tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        rendered = prompt("2+2?", tokenizer, instruction="!", system="Add.", examples=pairs)
        turns = "<user>1+1?!<assistant>2, of course. #### 2<user>1+2?!<assistant>3"
        assert rendered == f"<system>Add.{turns}<user>2+2?!"
        tokenizer.chat_template = None
        rendered = prompt("2+2?", tokenizer, instruction="!", examples=pairs)
        assert rendered == "1+1?!\n2, of course. #### 2\n\n1+2?!\n3\n\n2+2?!\n<think>\n"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("", "the file is empty"),
            ('{"q": "1+1?"}', "line 1: field 'a' must be a text; the row has 'q'"),
            ('{"q": "1+1?", "a": 2}', "line 1: field 'a' must be a text"),
            ("{", "line 1: not a JSON object"),
        ],
    )
    def test_a_file_that_does_not_serve_is_named(self, file, text, why):
        file.write_text(text)
        with pytest.raises(DataError, match=f"^examples='.*examples.jsonl'[:,] {why}"):
            read_examples(str(file), "q", "a")

    def test_they_belong_to_the_identity_and_to_problems_of_files(self, file, tmp_path, checkpoint):
        rows = tmp_path / "rows.jsonl"
        rows.write_text("".join(f'{{"q": "1+{i}?", "a": "{i + 1}"}}\n' for i in range(1, 4)))
        given = {
            "task": "math",
            "data": str(rows),
            "model": str(checkpoint),
            "max_prompt_tokens": 999,
            "eval_problems": 2,
        }
        given |= {"problem_field": "q", "answer_field": "a", "examples": str(file)}
        config = configs.load("tiny", **given)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        with closing(tasks.make(config, tokenizer)) as task:
            assert all("2, of course." in problem.prompt for problem in task.heldout)
            shown = {"1+1?", "1+2?"} & {problem.row["q"] for problem in task.heldout}
            assert task.notes["examples_also_heldout"] == len(shown) > 0
        assert {"data", "examples"} == {*identity.of_data({n: getattr(config, n) for n in ("data", "examples")})}
        with pytest.raises(ConfigError, match=r"examples='.*' needs task='math'"):
            configs.load("tiny", examples=str(file))
        with pytest.raises(ConfigError, match=r"examples='.*' needs a benchmark that is a file"):
            settings.load(examples=str(file))


class TestDay:
    @pytest.mark.parametrize(
        ("template", "written"),
        [
            (LLAMA_32, "Today: 03 Feb 2026 "),
            (LLAMA_31, "Today: 26 Jul 2024 "),  # the checkpoint's own, which no day changes
            ("Today: {{ date_string }} {{ messages[0].content }}", "Today: 03 Feb 2026 "),
            ("{{ strftime_now('%Y-%m-%d %H:%M') }} {{ messages[0].content }}", "2026-02-03 00:00 "),
        ],
    )
    def test_templates_write_the_given_one(self, tokenizer, template, written):
        tokenizer.chat_template = template
        assert prompt("1+1?", tokenizer, "2026-02-03").strip().startswith(written)

    def test_without_one_it_is_today(self, tokenizer):
        tokenizer.chat_template = "{{ strftime_now('%Y-%m-%d') }} {{ messages[0].content }}"
        days = [str(date.today())]
        rendered = prompt("1+1?", tokenizer)
        assert rendered[:10] in [*days, str(date.today())]  # midnight may pass between the two

    @pytest.mark.parametrize("make", [configs.make, lambda values: settings.load(**values)])
    def test_the_setting_is_a_day(self, make):
        for value in ("2026-02-03", date(2026, 2, 3)):  # as quoted in YAML, and plain
            assert make({"date": value}).date == "2026-02-03"
        for value in ("tomorrow", 20260203, "2026-02-30"):
            with pytest.raises(ConfigError, match=f"date={value!r}: must be a date such as 2026-01-31"):
                make({"date": value})

    def test_a_run_keeps_its_own(self, small, monkeypatch, tmp_path):
        config = configs.make({**small, "date": "2026-02-03"})
        (tmp_path / "run").mkdir()
        configs.dump(config, tmp_path / "run" / "config.yaml")
        monkeypatch.setattr(RunFolder, "_read_identity", lambda self: None)
        goes_on = configs.make({**small, "resume": True})
        assert RunFolder(goes_on).config.date == "2026-02-03"
        assert RunFolder(goes_on.model_copy(update={"date": "2026-02-04"})).config.date == "2026-02-04"
        monkeypatch.setattr(runfolder, "date", Tomorrow)
        afresh = configs.make({**small, "overwrite": True})
        assert RunFolder(afresh).config.date == "2999-01-01"

    def test_an_evaluation_goes_on_with_its_own(self, tmp_path, monkeypatch):
        problems = some_problems(tmp_path / "mine.jsonl", "problems", 2)
        model = random_model(tmp_path / "model", problems, LLAMA_32)
        own = {"model": str(model), "data_dir": str(tmp_path), "benchmarks": ["mine"], "max_new_tokens": 4}
        own |= {"temperature": 1.0, "top_p": 1.0}
        monkeypatch.setattr(evaluation, "Judge", NoJudge)

        def evaluate(name, **changes):
            folder = evaluation.evaluate(settings.load(**own, eval_dir=str(tmp_path / name), **changes))
            rows = [pd.read_parquet(path) for path in sorted(folder.glob("completions/mine/*.parquet"))]
            texts = pd.concat(rows).sort_values(["index", "sample"])["text"].tolist()
            return texts, pd.read_parquet(folder / "problems.parquet")["prompt"].tolist()

        at_once = evaluate("at_once", n=4)
        evaluate("in_two", n=2)
        monkeypatch.setattr(evaluation, "date", Tomorrow)
        assert evaluate("in_two", n=4) == at_once
        assert evaluate("later", n=4) != at_once


class Tomorrow(date):
    @classmethod
    def today(cls):
        return date(2999, 1, 1)


class NoJudge(nullcontext):
    def __init__(self, config, loaded):
        super().__init__()

    def __enter__(self):
        return lambda benchmark, problems, texts, tokens: (["wrong"] * len(texts), [None] * len(texts))
