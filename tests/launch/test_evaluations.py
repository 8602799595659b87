"""An evaluation on ranks that are started here: the completions of one process, one line for what goes wrong."""

import json

import pandas as pd
import pytest
import torch
from running import SMALL

import dgpo
from dgpo import __main__ as cli
from dgpo.config import ConfigError
from dgpo.evaluation import run
from dgpo.evaluation import settings as evaluations
from dgpo.launch import evaluations as launch
from dgpo.launch.follow import LaunchError

TINY = {"tiny": SMALL["tiny"], "difficulty": 1, "generated_max_new_tokens": 14, "generated_problems": 6, "n": 4}


def stored(folder):
    files = sorted((folder / "completions").rglob("*.parquet"))
    assert len(files) == 6
    return pd.concat([pd.read_parquet(file) for file in files], ignore_index=True)


def test_two_ranks_store_what_one_process_stores_and_a_file_that_is_lost_is_made_again(tmp_path, capfd):
    settings = {**TINY, "chunk_rows": 4, "threads": 1}
    one = dgpo.evaluate("tiny", **settings, eval_dir=str(tmp_path / "one")).folder
    two = dgpo.evaluate("tiny", **settings, eval_dir=str(tmp_path / "two"), ranks=2).folder
    pd.testing.assert_frame_equal(stored(one), stored(two))
    assert "2 ranks by torchrun" in capfd.readouterr().err
    next((two / "completions").rglob("*.parquet")).unlink()
    dgpo.evaluate("tiny", **settings, eval_dir=str(two), ranks=2)
    pd.testing.assert_frame_equal(stored(one), stored(two))
    assert json.loads((one / "results.json").read_text()) == json.loads((two / "results.json").read_text())
    shown = launch._Completions(evaluations.load(model="tiny", **settings, eval_dir=str(two)))
    shown.show()
    assert shown.progress.total == 24


def test_the_error_of_a_rank_is_one_line(tmp_path, checkpoint):
    (tmp_path / "model").mkdir()
    for file in checkpoint.iterdir():
        if file.name != "model.safetensors":
            (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    config = evaluations.load(model=str(tmp_path / "model"), **TINY, eval_dir=str(tmp_path / "eval"))
    with pytest.raises(LaunchError, match=r"model.*model.safetensors.*what the ranks printed: .*eval\.launch/log\.txt"):
        launch.evaluate(config, 2)
    assert not (tmp_path / "eval").exists()


def test_mistakes_are_told_before_ranks_start(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "follow", lambda *_: pytest.fail("ranks were started"))
    with pytest.raises(ConfigError, match="unknown benchmark 'aime24'"):
        dgpo.evaluate("x", ["aime24"], ranks=2, eval_dir=str(tmp_path / "eval"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"ranks=2, but this machine has 1 CUDA devices"):
        dgpo.evaluate("tiny", ranks=2, **TINY, eval_dir=str(tmp_path / "eval"))


def test_a_notebook_on_a_gpu_evaluates_in_a_child_process(monkeypatch, tmp_path):
    config = evaluations.load(model="tiny", **TINY, eval_dir=str(tmp_path / "eval"))
    monkeypatch.setattr(run, "evaluate", lambda _: "here")
    assert launch.evaluate(config) == "here"
    monkeypatch.setattr(launch, "in_notebook", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    started = []
    monkeypatch.setattr(launch, "follow", lambda launcher, *_: started.append(launcher.ranks))
    assert launch.evaluate(config) == tmp_path / "eval"
    assert started == [1]
    assert launch.evaluate(config.model_copy(update={"device": "cpu"})) == "here"


def test_settings_may_come_from_a_file(tmp_path, capsys):
    file = tmp_path / "eval.yaml"
    file.write_text(f"model: tiny\nn: 0\neval_dir: {tmp_path / 'eval'}\n")
    assert cli.main(["eval", str(file)]) == 2
    assert "n=0" in capsys.readouterr().err
    assert cli.main(["eval", str(file), "n=2", "k=[4]"]) == 2
    assert "k=[4]" in capsys.readouterr().err
