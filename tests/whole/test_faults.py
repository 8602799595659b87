"""Nothing is lost: real faults on two ranks, a full disk, damaged checkpoints; the run goes on as if undisturbed."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import running
import torch
from launch import errors, torchrun
from running import rows
from safetensors.torch import load_file

from dgpo import config as configs
from dgpo import trainer
from dgpo.run import checkpoint
from dgpo.run.checkpoint import CheckpointError


def assert_equal(run, undisturbed):
    assert rows(run) == rows(undisturbed)
    a, b = (load_file(Path(folder) / "policy" / "model.safetensors") for folder in (run, undisturbed))
    assert all(torch.equal(x, y) for x, y in zip(a.values(), b.values(), strict=True))
    assert not list(Path(run).glob("**/.*.partial"))


def test_after_kill_9_and_a_hang_of_one_of_two_ranks_the_run_goes_on_as_if_undisturbed(settings, tmp_path):
    """One run, ended in rollout, update and checkpoint writing by kill -9 of a rank, then by one that hangs."""
    run = {**settings, "run_dir": str(tmp_path / "run"), "steps": 5, "zero_stage": 2, "timeout": 3600, "resume": True}

    def interrupted(place, **fault):
        result = torchrun([run], tmp_path, **fault)
        assert result.returncode != 0
        assert not (tmp_path / "run" / "summary.json").exists()
        said, survivor = errors(result), 1 - next(iter(fault.values()))["rank"]
        assert re.search(rf"rank {survivor} of 2 on \S+, in {place}", said), said
        return said

    interrupted("step 1, (rollout|reward)", kill={"call": "Sampler.generate", "rank": 1, "step": 1})
    assert not list((tmp_path / "run").glob("checkpoints/step_*"))
    interrupted("step 3, update", kill={"call": "Engine.update", "rank": 0, "step": 3, "count": 2})
    interrupted("step 4, checkpoint", kill={"call": "Engine.save", "rank": 1, "step": 4, "after": True})
    assert [path.name for path in (tmp_path / "run").glob("checkpoints/step_*")] == ["step_000002"]
    said = interrupted("step 3, update", hang={"call": "Engine.update", "rank": 1, "step": 3})
    assert "Timed out waiting 1000ms" in said
    assert "Traceback" in said
    assert "in step 3, update: stopped by SIGTERM" in said  # the one that hung

    undisturbed = {**run, "run_dir": str(tmp_path / "undisturbed")}
    result = torchrun([run, undisturbed], tmp_path)
    assert result.returncode == 0, errors(result)
    assert_equal(run["run_dir"], undisturbed["run_dir"])


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory):
    """A run of five steps on one rank, with its checkpoints of steps 4 and 5."""
    return running.run(settings, steps=5, run_dir=str(tmp_path_factory.mktemp("faults") / "run"))


def cut(folder):
    os.truncate(folder / "rank_00000.safetensors", 1000)


def flip(folder):
    with (folder / "rank_00000.safetensors").open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-100, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def lose(folder):
    (folder / "rank_00000.safetensors").unlink()


def edit(folder):
    state = (folder / "state.json").read_text()
    (folder / "state.json").write_text(state.replace('"position": 40', '"position": 41'))


def empty(folder):
    (folder / "state.json").write_text("")


def null(folder):
    (folder / "state.json").write_text("null")


class TestDamage:
    @pytest.mark.parametrize(
        ("damage", "complaint"),
        [
            (cut, "rank_00000.safetensors has 1000 bytes"),
            (flip, "rank_00000.safetensors is damaged"),
            (lose, "rank_00000.safetensors is missing"),
            (edit, "state.json is damaged"),
            (empty, "state.json: "),
            (null, "state.json is damaged"),
        ],
    )
    def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
        self, finished, settings, tmp_path, capsys, damage, complaint
    ):
        run = shutil.copytree(finished, tmp_path / "run")
        assert checkpoint.damage(run / "checkpoints" / "step_000005") == ""
        damage(run / "checkpoints" / "step_000005")
        running.run(settings, steps=5, run_dir=str(run), resume=True)
        said = capsys.readouterr().err
        assert f"step_000005: {complaint}" in said
        assert "going on from step_000004" in said
        assert (run / "failed" / "step_000005").is_dir()
        assert_equal(run, finished)

    def test_without_a_whole_one_the_run_stops_and_names_them(self, finished, settings, tmp_path):
        run = shutil.copytree(finished, tmp_path / "run")
        cut(run / "checkpoints" / "step_000005")
        lose(run / "checkpoints" / "step_000004")
        with pytest.raises(CheckpointError, match=r"step_000005: .* has 1000 bytes.*step_000004: .* is missing"):
            running.run(settings, steps=5, run_dir=str(run), resume=True)
        assert rows(run) == rows(finished)
        assert (run / "policy").exists()

    def test_a_shard_that_lacks_elements_is_not_loaded_in_part(self, finished, settings, tmp_path):
        made = trainer.Trainer(configs.make({**settings, "run_dir": str(tmp_path / "run")}))
        half = tmp_path / "half"
        half.mkdir()
        with pytest.raises(CheckpointError, match=r"0 of the .* elements"):
            made.engine.load(half, 1)


def test_no_space_left_keeps_the_checkpoints_and_the_run_goes_on(settings, finished, tmp_path):
    """A file system of its own, with room for one checkpoint and not for two."""
    run = tmp_path / "run"
    run.mkdir()
    size = sum(path.stat().st_size for path in (finished / "checkpoints" / "step_000004").iterdir())
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size + size // 2}", "tmpfs", str(run)], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"may not mount a file system here: {mounted.stderr}")
    try:
        config = {**settings, "steps": 5, "run_dir": str(run), "token_records": 0}
        with pytest.raises(CheckpointError, match=r"step_000004 could not be written .*No space left"):
            running.run(config)
        assert [path.name for path in run.glob("checkpoints/*")] == ["step_000002"]
        assert checkpoint.damage(run / "checkpoints" / "step_000002") == ""
        subprocess.run(["mount", "-o", "remount,size=64m", str(run)], check=True)
        running.run(config, resume=True)
        assert rows(run) == rows(finished)
    finally:
        subprocess.run(["umount", str(run)], check=True)


def test_the_best_checkpoint_is_kept_beside_the_newest(settings, tmp_path, monkeypatch):
    right = iter([1, 11, 4, 11, 2])  # of 12 completions
    original = trainer.evaluate

    def scored(*args):
        result = original(*args)
        result.rewards.flat = [1.0] * (count := next(right)) + [0.0] * (result.rewards.size - count)
        return result

    monkeypatch.setattr(trainer, "evaluate", scored)
    config = {**settings, "steps": 4, "eval_every": 1, "checkpoint_every": 1, "keep_checkpoints": 1, "keep_best": True}
    run = running.run(config, run_dir=str(tmp_path / "run"))
    # 11 twice, at steps 1 and 3: the later one counts
    assert sorted(path.name for path in run.glob("checkpoints/*")) == ["step_000003", "step_000004"]
    state = json.loads((run / "checkpoints" / "step_000003" / "state.json").read_text())
    assert state["heldout"] == pytest.approx(11 / 12)


def test_a_damaged_checkpoint_that_is_not_the_newest_stops_nothing(settings, tmp_path):
    config = {**settings, "checkpoint_every": 1, "keep_checkpoints": 2, "keep_best": True}
    config |= {"run_dir": str(tmp_path / "run"), "steps": 2, "resume": True}
    run = running.run(config)
    (run / "checkpoints" / "step_000001" / "state.json").unlink()
    running.run(config, steps=3)
    assert sorted(path.name for path in run.glob("checkpoints/*")) == ["step_000002", "step_000003"]


def test_a_kill_while_a_checkpoint_is_removed_leaves_no_half_of_one(settings, tmp_path, monkeypatch):
    config = {**settings, "checkpoint_every": 1, "keep_checkpoints": 1, "run_dir": str(tmp_path / "run"), "steps": 2}
    remove = checkpoint.remove

    def killed(path):
        if path.parent.name == "checkpoints" and "step_000001" in path.name and path.exists():
            (path / "state.json").unlink()
            raise KeyboardInterrupt
        remove(path)

    monkeypatch.setattr(checkpoint, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        running.run(config)
    monkeypatch.setattr(checkpoint, "remove", remove)
    run = running.run(config, resume=True)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step_000002"]
