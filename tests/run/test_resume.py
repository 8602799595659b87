"""Going on: an interrupted run equals an undisturbed one, and a folder belongs to one run and one process."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from alike import assert_alike, steady_draws
from running import rows, run, weights

from dgpo import config as configs
from dgpo import trainer
from dgpo.config import ConfigError
from dgpo.objective import adapted_kl_coef

KILL = """
import os, signal, sys
from dgpo import __main__, trainer
moment, seen = {moment!r}, []

def die_at(count, name):
    original = getattr(trainer.Engine, name)
    def wrapped(self, *args, **kwargs):
        seen.append(1)
        if name == "save":
            original(self, *args, **kwargs)  # the files are there, the rename is not
        if len(seen) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        if name != "save":
            return original(self, *args, **kwargs)
    setattr(trainer.Engine, name, wrapped)

die_at(*dict(before_first_checkpoint=(3, "update"), in_update=(14, "update"), in_checkpoint=(2, "save"))[moment])
sys.exit(__main__.main(sys.argv[1:]))
"""


def _env():
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_a_run_continues_as_if_it_had_not_stopped(small, tmp_path):
    undisturbed = run(small, steps=6)
    parted = str(tmp_path / "parted")
    run(small, run_dir=parted, steps=4)
    joined = run(small, run_dir=parted, steps=6, resume=True)
    # The evaluation after a last step is the only trace of where the first part ended.
    assert rows(joined) == rows(undisturbed)
    assert all(torch.equal(a, b) for a, b in zip(weights(joined).values(), weights(undisturbed).values(), strict=True))
    assert sorted(p.name for p in joined.glob("tokens/*")) == sorted(p.name for p in undisturbed.glob("tokens/*"))


def test_an_adapted_kl_coefficient_goes_on_where_it_was(small, tmp_path):
    """Step by step it follows from the rows: by a fifth of 32/64 at most, as the KL is below or above the target."""
    small |= {"kl_coef": 0.1, "kl_target": 1e-3, "kl_horizon": 64}
    undisturbed = run(small, steps=6)
    parted = str(tmp_path / "parted")
    run(small, run_dir=parted, steps=4)
    assert rows(run(small, run_dir=parted, steps=6, resume=True)) == rows(undisturbed)
    coefficient, steps = 0.1, rows(undisturbed)[1:]
    for row in steps:
        assert row["kl/coef"] == coefficient
        coefficient = adapted_kl_coef(coefficient, row["kl/reference"], 1e-3, 32 / 64)
    assert steps[1]["kl/coef"] == pytest.approx(0.09)
    assert steps[5]["kl/coef"] > steps[1]["kl/coef"]


@pytest.mark.parametrize("moment", ["before_first_checkpoint", "in_update", "in_checkpoint"])
def test_after_kill_9_the_joined_run_equals_the_undisturbed_one(small, tmp_path, moment):
    """A real process, killed at a chosen place, continued by the same command with resume=true."""
    settings = {**small, "steps": 5, "schedule": "cosine", "warmup_updates": 3}
    undisturbed = run(settings, run_dir=str(tmp_path / "undisturbed"))
    script = KILL.format(moment=moment)
    words = [f"{k}={json.dumps(v)}" for k, v in settings.items()]
    killed = subprocess.run([sys.executable, "-c", script, "train", *words], capture_output=True, text=True, env=_env())
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (Path(small["run_dir"]) / "summary.json").exists()
    again = subprocess.run(
        [sys.executable, "-m", "dgpo", "train", *words, "resume=true"], capture_output=True, text=True, env=_env()
    )
    assert again.returncode == 0, again.stderr
    assert rows(small["run_dir"]) == rows(undisturbed)
    ours = weights(Path(small["run_dir"]))
    assert all(torch.equal(a, b) for a, b in zip(ours.values(), weights(undisturbed).values(), strict=True))
    assert not list(Path(small["run_dir"]).glob("**/.*.partial"))


def test_a_finished_run_can_be_resumed_without_harm(small, capsys):
    before = rows(run(small, steps=2))
    assert rows(run(small, steps=2, resume=True)) == before
    assert "has made" not in capsys.readouterr().err
    assert rows(run(small, steps=1, resume=True)) == before
    assert "has made 2 steps already: with steps=1 there is nothing to do" in capsys.readouterr().err


def test_what_a_shorter_end_left_is_gone_while_the_run_goes_on(small, monkeypatch):
    folder = run(small, steps=2)
    monkeypatch.setattr(trainer.Trainer, "update", lambda *_: pytest.fail("stop here"))
    with pytest.raises(pytest.fail.Exception):
        run(small, steps=4, resume=True)
    assert not (folder / "summary.json").exists()
    assert not (folder / "policy").exists()


def test_one_process_at_a_time_has_the_folder(small):
    first = trainer.Trainer(configs.make(small))
    second = trainer.Trainer(configs.make({**small, "resume": True}))
    first.restore()
    with pytest.raises(ConfigError, match="another process is using it"):
        second.restore()
    first.run.close()
    second.restore()
    second.run.close()


def test_a_run_that_came_while_this_one_was_loading_is_not_overwritten(small):
    late = trainer.Trainer(configs.make(small))
    folder = run(small, steps=1)
    with pytest.raises(ConfigError, match="already holds a run"):
        late.restore()
    assert len(rows(folder)) == 2


def test_a_run_goes_on_in_smaller_pieces_and_says_that_they_round_otherwise(small, checkpoint, monkeypatch, capsys):
    steady_draws(monkeypatch.setattr)
    undisturbed = run(small, run_dir=small["run_dir"] + "_whole")
    run(small, steps=2)
    joined = run(small, resume=True, micro_batch_size=2, gradient_checkpointing=True, generation_batch_size=8)
    said = capsys.readouterr().err
    assert "from here on, sums round differently: " in said
    for change in ("gradient_checkpointing: False → True", "micro_batch_size: 4 → 2", "generation_batch_size: 256 → 8"):
        assert change in said
    assert_alike(undisturbed, joined, checkpoint)


def _forget_the_mean(patch):
    load = trainer.Engine.load

    def forgetful(self, folder, updates):
        load(self, folder, updates)
        for state in self.deepspeed.optimizer.optimizer.state.values():
            state["exp_avg"].zero_()

    patch(trainer.Engine, "load", forgetful)


def _count_one_more(patch):
    counted = trainer.loss_weights
    patch(trainer, "loss_weights", lambda mask, *how: counted(mask, *how) * mask.sum() / (mask.sum() + 1))


@pytest.mark.parametrize("fault", [_forget_the_mean, _count_one_more])
def test_the_bound_on_rounding_tells_a_fault_from_it(small, checkpoint, monkeypatch, fault):
    steady_draws(monkeypatch.setattr)
    undisturbed = run(small, run_dir=small["run_dir"] + "_whole")
    run(small, steps=2)
    fault(monkeypatch.setattr)
    with pytest.raises(AssertionError, match="step 3: "):
        assert_alike(undisturbed, run(small, resume=True), checkpoint)


@pytest.mark.parametrize("write", [1, 2, 3, 4])
def test_a_kill_in_any_of_the_first_writes_leaves_a_folder_that_can_be_used(small, monkeypatch, write):
    """identity.json, two empty files of rows, config.yaml: what is written before the first step."""

    class Killed(BaseException):
        pass

    made, replace = [], os.replace

    def dying(source, target):
        made.append(Path(target).name)
        if len(made) == write:
            killed.setattr("dgpo.files.remove", lambda path: None)  # nobody is left to tidy up
            raise Killed
        replace(source, target)

    with monkeypatch.context() as killed:
        killed.setattr("os.replace", dying)
        with pytest.raises(Killed):
            run(small, steps=1)
    assert Path(small["run_dir"]).exists()
    assert len(rows(run(small, steps=1))) == 2
    assert not list(Path(small["run_dir"]).glob(".*.partial"))


def test_a_spoilt_row_is_named(small):
    path = run(small, steps=2) / "metrics.jsonl"
    path.write_text(path.read_text().replace('{"step": 1', "\0\0\0\0"))
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 2 is damaged"):
        run(small, steps=3, resume=True)


def test_a_file_system_without_locks_is_named(small, monkeypatch):
    def unable(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr("fcntl.flock", unable)
    with pytest.raises(ConfigError, match=r"run_dir='.*': its file system does not support locks \(Function not"):
        run(small, steps=1)


def test_resume_without_a_run_starts_one(small):
    assert len(rows(run(small, resume=True, steps=1))) == 2


def test_a_run_folder_is_neither_overwritten_nor_continued_unasked(small):
    folder = run(small, steps=1)
    with pytest.raises(ConfigError, match="resume=True continues it, overwrite=True starts it afresh"):
        run(small, steps=1)
    with pytest.raises(ConfigError, match=r"other settings: lr: 0\.0003 → 0\.1"):
        run(small, steps=1, resume=True, lr=0.1)
    with pytest.raises(ConfigError, match="exclude each other"):
        run(small, resume=True, overwrite=True)
    assert len(rows(folder)) == 2
    assert len(rows(run(small, steps=2, overwrite=True))) == 3


def test_a_folder_with_other_things_is_not_touched(small):
    precious = Path(small["run_dir"]) / "thesis.tex"
    precious.parent.mkdir()
    precious.write_text("x")
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ConfigError, match="not empty and not a run folder"):
            run(small, **flags)
    (precious.parent / "config.yaml").write_text("model: resnet\nepochs: 90\n")  # other projects have one too
    for flags in ({}, {"overwrite": True}, {"resume": True}):
        with pytest.raises(ConfigError, match=r"is not the config\.yaml of a run"):
            run(small, **flags)
    assert precious.read_text() == "x"
    with pytest.raises(ConfigError, match="is a file"):
        run(small, run_dir=str(precious))
