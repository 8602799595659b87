"""Settings describe themselves: one source for help, reference, schema, resume rules and the names of before."""

import json
import subprocess
import sys
from typing import get_args

import pytest
import yaml

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import describe, objective
from dgpo.config import Config, ConfigError
from dgpo.evaluation import settings as evaluation
from dgpo.run import folder
from dgpo.settings import GROUPS, RENAMED, RESUME
from dgpo.sweeps import definition


@pytest.mark.parametrize("command", describe.COMMANDS)
def test_every_setting_says_what_it_is(command):
    rows = list(describe.settings_of(describe.COMMANDS[command]))
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.description, row.name
        assert not row.description.endswith("."), row.name
        assert row.group in GROUPS, row.name
        assert row.resume in RESUME, row.name
        assert "anything" not in row.kind, row.name


def test_the_reference_of_one_setting_has_all_that_is_known_of_it(capsys):
    assert cli.main(["settings", "group_size"]) == 0
    said = capsys.readouterr().out
    for word in ("completions of each problem", "integer ≥ 1", "default   8", "must stay", "formerly  completions"):
        assert word in said
    cli.main(["settings", "vllm.gpu_memory"])
    assert "number > 0 < 1" in capsys.readouterr().out
    assert cli.main(["settings", "grup_size"]) == 2
    assert "did you mean 'group_size'?" in capsys.readouterr().err


@pytest.mark.parametrize("command", describe.COMMANDS)
def test_a_default_with_a_line_break_stays_in_its_row(command):
    for line in describe.markdown(describe.COMMANDS[command]).splitlines():
        assert not line.startswith("|") or line.replace(r"\|", "").count("|") == 7, line
    assert len(describe.reference(describe.COMMANDS[command]).split("\nPlease reason")) == 1


def test_literals_are_those_that_the_objective_knows():
    fields = Config.model_fields
    assert get_args(fields["advantage"].annotation) == objective.ADVANTAGES
    assert get_args(fields["loss_aggregation"].annotation) == ("method", *objective.AGGREGATIONS)
    assert get_args(fields["kl"].annotation) == objective.KL_KINDS
    assert get_args(fields["importance_correction"].annotation) == objective.CORRECTIONS
    for config, kinds in ((Config, configs.ACCEPTABLE), (evaluation.EvalConfig, evaluation.ACCEPTABLE)):
        assert get_args(get_args(config.model_fields["accept_changes"].annotation)[0]) == kinds


@pytest.mark.parametrize(("old", "new"), [item for item in RENAMED.items() if item[0] != "slip"])
def test_an_old_name_is_refused_with_the_new_one(old, new):
    if new in evaluation.EvalConfig.model_fields:
        with pytest.raises(ConfigError, match=f"it is called {new} now"):
            evaluation.load(**{old: 4})
    if new not in Config.model_fields:
        return
    with pytest.raises(ConfigError, match=f"unknown setting {old}=4: it is called {new} now"):
        configs.load("tiny", **{old: 4})
    fields = {"name": "s", "folder": "runs/s", "factors": {old: [1, 2]}, "seeds": [0]}
    with pytest.raises(ConfigError, match=f"it is called {new} now"):
        definition.make(fields)


def test_a_setting_within_another_goes_by_its_dotted_name(capsys):
    """The name that the reference has."""
    config = configs.load("tiny", **{"tiny": {"hidden": 32}, "tiny.steps": 30, "vllm.gpu_memory": 0.5})
    assert (config.tiny.hidden, config.tiny.steps, config.vllm.gpu_memory) == (32, 30, 0.5)
    assert evaluation.load(**{"tiny.steps": 30}).tiny.steps == 30
    for bad, words in (({"tiny.stepz": 3}, r"tiny\.stepz=3"), ({"lr.x": 1}, "lr="), ({"what.x": 1}, "what=")):
        with pytest.raises(ConfigError, match=words):
            configs.load("tiny", **bad)


def test_an_old_name_within_another_setting_too():
    with pytest.raises(ConfigError, match=r"tiny\.slip=0\.1: it is called step_error_rate now"):
        configs.load("tiny", tiny={"slip": 0.1})


def test_a_run_of_before_is_refused_with_the_version_that_wrote_it(tmp_path):
    settings = configs.load("tiny", run_dir=str(tmp_path)).model_dump()
    for old, new in RENAMED.items():
        if new in settings:
            settings[old] = settings.pop(new)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(ConfigError, match=r"dgpo 0\.1 wrote it"):
        configs.read_run(tmp_path / "config.yaml")


def test_what_may_change_on_resume_is_a_property_of_the_setting():
    before = configs.load("tiny")
    allowed = before.model_copy(update={"timeout": 5.0, "micro_batch_size": 8, "steps": 90, "data": "elsewhere"})
    assert folder.differences(before, allowed) == []
    assert folder.rounding(before, allowed) == ["micro_batch_size: 32 → 8"]
    assert folder.differences(before, before.model_copy(update={"lr": 1.0})) == ["lr: 0.0003 → 1.0"]
    cosine = before.model_copy(update={"schedule": "cosine"})
    assert folder.differences(cosine, cosine.model_copy(update={"steps": 90})) == ["steps: 60 → 90"]


def test_help_and_reference_import_no_torch():
    """`--help` answers at once: torch takes seconds to import."""
    for words in (["--help"], ["train", "--help"], ["sweep", "--help"], ["settings"], ["settings", "lr"]):
        script = (
            "import sys\nfrom dgpo.__main__ import main\n"
            f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
            "sys.exit(', '.join({'torch', 'pandas', 'transformers'} & sys.modules.keys()) or 0)"
        )
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
        assert done.returncode == 0, (words, done.stderr)
    assert (
        "group_size"
        in subprocess.run(
            [sys.executable, "-m", "dgpo", "train", "--help"], capture_output=True, text=True, check=True
        ).stdout
    )


def test_the_schema_beside_the_recipes_is_that_of_the_settings():
    """Write it anew with: python -m dgpo settings --schema > dgpo/recipes/schema.json"""
    assert (configs.RECIPES / "schema.json").read_text() == describe.schema(Config) + "\n"
    assert set(json.loads(describe.schema(Config))["properties"]) == set(Config.model_fields)
    for path in configs.RECIPES.glob("*.yaml"):
        assert path.read_text().startswith("# yaml-language-server: $schema=schema.json\n"), path.name
