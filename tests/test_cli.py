"""python -m dgpo: what it accepts, what it prints, and with which exit status it fails."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from analysis import runs
from dgpo import __main__ as cli
from dgpo.run.rows import read_rows


def test_recipe_and_settings():
    assert cli.parse([]) == ("tiny", {})
    assert cli.parse(["method=grpo", "dual_clip=3.0", "resume=true", "data=null"]) == (
        "tiny",
        {"method": "grpo", "dual_clip": 3.0, "resume": True, "data": None},
    )
    assert cli.parse(["x.yaml", 'tiny={"steps": 20}']) == ("x.yaml", {"tiny": {"steps": 20}})


def test_settings_may_stand_behind_options(monkeypatch, capsys):
    asked = []
    for name in ("_plan", "_sweep"):
        monkeypatch.setattr(cli, name, lambda args, places: asked.append(args) or 0)
    assert cli.main(["plan", "r1-distill-7b", "--gpus", "8", "prompts_per_step=64"]) == 0
    assert cli.main(["sweep", "s.yaml", "--report", "seeds=[0]"]) == 0
    assert [args.settings for args in asked] == [["r1-distill-7b", "prompts_per_step=64"], ["seeds=[0]"]]
    assert (asked[0].gpus, asked[1].report) == (8, True)
    for words in (["plan", "--gpus", "8", "--gpu_count=8"], ["sweep", "s.yaml", "--report", "now"], ["methods", "n=1"]):
        with pytest.raises(SystemExit):
            cli.main(words)
        assert f"unrecognized arguments: {words[-1]}" in capsys.readouterr().err


def test_rescore_and_compare_exclude_each_other(capsys):
    with pytest.raises(SystemExit):
        cli.main(["eval", "--rescore", "a", "--compare", "b", "c"])
    assert "--compare: not allowed with argument --rescore" in capsys.readouterr().err


def test_train_prints_the_run_folder(small, capsys):
    words = [f"{k}={v}" for k, v in {**small, "steps": 1}.items()]
    assert cli.main(["train", "tiny", *words]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == small["run_dir"]
    assert len(read_rows(Path(small["run_dir"]) / "metrics.jsonl")) == 2
    assert cli.main(["train", "tiny", *words]) == 2
    assert "resume=True continues it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "tiny", "method=grop"], "did you mean 'grpo'"),
        (["train", "tiny", "stepz=3"], "unknown setting stepz=3"),
        (["train", "nowhere"], "recipe 'nowhere'"),
        (["train", "tiny", "oops"], "'oops' is not of the form key=value"),
        (["train", "tiny", "steps=[1"], "steps='[1'"),
        (["train", "tiny", "n=1", "seed=3", "n=4"], "n is set twice, the second time by 'n=4'"),
        (["train", "tiny", "method=mymethods:Mine", "power=abc"], "power='abc' must be a number in (-inf, inf)"),
    ],
)
def test_mistakes_end_before_anything_is_loaded(words, said, capsys, monkeypatch, tmp_path):
    (tmp_path / "mymethods.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "dgpo.trainer", None)  # importing it would raise another error
    assert cli.main(words) == 2
    assert said in capsys.readouterr().err


MODULE = """
from dataclasses import dataclass
from dgpo.methods import Method

@dataclass(frozen=True)
class Mine(Method):
    power: float = 0.5

    def weight(self, logp, old_logp, advantage, mask=None):
        return (self.power * (logp - old_logp)).exp()
"""


def test_a_method_in_a_file_of_ones_own_trains(small, tmp_path, monkeypatch, capsys):
    (tmp_path / "mymethods.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    words = [f"{k}={v}" for k, v in {**small, "steps": 1, "method": "mymethods:Mine", "power": 0.8}.items()]
    assert cli.main(["train", "tiny", *words]) == 0
    run = runs.read(small["run_dir"])
    assert str(run.method) == "mymethods:Mine(power=0.8)"
    for bad, said in (
        ("mymethods:Yours", "no 'Yours'"),
        ("mymethods:dataclass", "must be a subclass"),
        ("no:X", "'no'"),
    ):
        assert cli.main(["train", "tiny", f"method={bad}"]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize(("rank", "told"), [("0", "error: steps=0: "), ("1", "")])
def test_of_all_ranks_the_first_refuses_the_words_that_all_were_given(monkeypatch, capsys, rank, told):
    for name, value in {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["train", "tiny", "steps=0"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(told)
    assert bool(said) == bool(told)


def test_a_full_disk_is_named(small, capsys, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dgpo.run.rows.append", full)
    assert cli.main(["train", "tiny", *(f"{k}={v}" for k, v in small.items())]) == 3
    assert f"error: run_dir='{small['run_dir']}' cannot be written to: No space left" in capsys.readouterr().err


def test_methods_are_listed_with_their_parameters(capsys):
    assert cli.main(["methods"]) == 0
    out = capsys.readouterr().out
    assert "ce_gppo" in out
    assert "beta_low=0.75" in out


@pytest.mark.parametrize(("ranks", "taken_apart"), [(1, True), (2, False)])
def test_a_rank_of_several_ends_before_its_libraries_can_abort_it(tmp_path, ranks, taken_apart):
    (tmp_path / "sitecustomize.py").write_text("import atexit\natexit.register(print, 'taken apart')\n")
    place = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(ranks), "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    paths = os.pathsep.join((str(tmp_path), str(Path(__file__).parents[1])))
    given = {**os.environ, **place, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "dgpo", "methods"]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    assert "dgpo" in done.stdout
    assert ("taken apart" in done.stdout) is taken_apart
