"""The card of a trained policy says what it is; a push is checked before training, and its failure loses nothing."""

import json
import sys

import huggingface_hub
import pytest
from running import SMALL, run

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo.config import ConfigError
from dgpo.run import hub
from dgpo.run.hub import HubError


class Api:
    """The calls of HfApi that a push makes, noted; `fault` is raised by the upload."""

    calls, fault = [], None

    def create_repo(self, name, **settings):
        self.calls.append(("create", name, settings))

    def upload_folder(self, **settings):
        self.calls.append(("upload", settings["repo_id"], sorted(p.name for p in settings["folder_path"].iterdir())))
        if self.fault:
            raise self.fault


@pytest.fixture
def api(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: "hf_x")
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(Api, "calls", [])
    return Api


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "ours.py").write_text(
        "def length(completions, **_):\n    return [float(len(c)) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("ours", None)


@pytest.fixture
def small(checkpoint, tmp_path):
    return {**SMALL, "model": str(checkpoint), "run_dir": str(tmp_path / "mine"), "steps": 1}


def test_the_card_names_method_parameters_data_and_results(functions, checkpoint, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"problem": f"{i}+1="}) + "\n" for i in range(40)))
    settings = {k: v for k, v in SMALL.items() if k not in ("tiny", "difficulty")}
    settings |= {"task": "math", "data": str(data), "model": str(checkpoint), "max_prompt_tokens": 200, "steps": 1}
    settings |= {"reward": ["ours:length"], "method": "gppo", "instruction": "", "lr": 2e-4}
    folder = run(settings, run_dir=str(tmp_path / "mine"))
    card = huggingface_hub.ModelCard.load(folder / "policy" / "README.md")
    summary = json.loads((folder / "summary.json").read_text())
    results = {result.metric_type: result.metric_value for result in card.data.eval_results}
    assert results == {name: pytest.approx(summary["after"][f"eval/{name}"], abs=1e-4) for name in ("avg@2", "pass@2")}
    assert card.data.model_name == "mine"
    assert {"dgpo", "gppo"} <= set(card.data.tags)
    made_of = json.loads((folder / "identity.json").read_text())["made_of"]
    for said in ("**gppo** (eps_low = 0.2", "1 steps of 8 prompts with 4 completions", "lr: 0.0002", "data: rows.jsonl",
                 f"| avg@2 | {summary['before']['eval/avg@2']:.3f}", "`ours:length`", made_of["data"]["data"],
                 "6 held-out problems, 2 completions of each"):  # fmt: skip
        assert said in card.text
    assert str(tmp_path) not in card.content, "folders are nobody's business"
    assert str(checkpoint.parent) not in card.content


def test_the_policy_is_pushed_once_it_is_whole(api, small):
    run(small, hub="me/mine")
    (create, upload) = api.calls
    assert create == ("create", "me/mine", {"private": True, "exist_ok": True})
    assert upload[:2] == ("upload", "me/mine")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= set(upload[2])


def test_a_push_that_fails_loses_nothing_and_a_resume_pushes_again(api, small, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "fault", ConnectionError("no\nnetwork"))
    with pytest.raises(HubError, match=r"hub='me/mine': ConnectionError: no network; .*policy is whole, resume=true"):
        run(small, hub="me/mine")
    assert (tmp_path / "mine" / "summary.json").exists()
    monkeypatch.setattr(api, "fault", None)
    run(small, hub="me/mine", resume=True)
    assert [name for name, *_ in api.calls] == ["create", "upload"] * 2


@pytest.mark.parametrize(
    ("missing", "why"),
    [
        (("get_token", lambda: None), r"hub='me/mine' needs a token that may write there: hf auth login, or HF_TOKEN"),
        (("constants.HF_HUB_OFFLINE", True), r"hub='me/mine' cannot be reached with HF_HUB_OFFLINE=1: unset it"),
    ],
)
def test_what_a_push_lacks_is_named_before_training(api, small, tmp_path, monkeypatch, missing, why):
    monkeypatch.setattr(f"huggingface_hub.{missing[0]}", missing[1])
    with pytest.raises(ConfigError, match=why):
        run(small, hub="me/mine")
    assert not (tmp_path / "mine").exists()
    assert not api.calls


def test_a_name_of_no_repository_is_refused(capsys):
    with pytest.raises(ConfigError, match=r"hub='mine' must be owner/name"):
        configs.load("tiny", hub="mine")
    assert cli.main(["train", "tiny", "hub=a/b/c"]) == 2
    assert "hub='a/b/c' must be owner/name" in capsys.readouterr().err


def test_of_settings_that_are_several_it_lists_those_that_differ():
    found = hub._changed(configs.load("tiny", tiny={"hidden": 32, "layers": 2}, lora={"r": 8}))
    assert (found["tiny"], found["lora"]) == ({"hidden": 32}, {"r": 8})
