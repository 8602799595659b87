"""Sampling a step ahead in another process: what is trained on, exact resume, and a process that fails."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from running import rows, run
from watching import WATCHDOG, children, ignores_ctrl_c, runs, stopped, until, until_gone

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import trainer
from dgpo.config import ConfigError
from dgpo.rollout import SamplerError
from dgpo.rollout.background import BackgroundSampler
from dgpo.run.rows import read_rows


@pytest.fixture
def small(small):
    return {**small, "asynchronous": True, "lr": 3e-3}


def test_completions_are_by_the_policy_of_the_step_before(small, monkeypatch, tmp_path):
    """Each step's completions, sampled again here with the weights that the step before started with."""
    steps, update = [], trainer.Trainer.update

    def watch(self, step, batch):
        steps.append((batch, {name: w.detach().clone() for name, w in self.engine.named_full_parameters()}))
        return update(self, step, batch)

    monkeypatch.setattr(trainer.Trainer, "update", watch)
    got = rows(run(small))
    made = trainer.Trainer(configs.make({**small, "asynchronous": False, "run_dir": str(tmp_path / "again")}))
    for k, (batch, _) in enumerate(steps):
        made.sampler.load(steps[max(k - 1, 0)][1].items())  # for the first step nothing could be sampled ahead
        again, _, _ = made.collector.collect()
        assert torch.equal(again.input_ids, batch.input_ids), k
        assert torch.equal(again.rollout_logp, batch.rollout_logp), k
        assert torch.equal(batch.old_logp, batch.rollout_logp), k  # the ratio is against the policy that sampled
    assert [row["staleness/steps"] for row in got[1:]] == [0, 1, 1, 1]
    assert got[1]["mismatch/mean_abs"] < 1e-5
    assert all(row["mismatch/mean_abs"] > 1e-3 and row["mismatch/kl"] > 1e-6 for row in got[2:])
    assert all(row["ratio/min"] < 0.999 for row in got[2:])


def test_a_run_whose_sampler_dies_goes_on_as_if_it_had_not(small, monkeypatch, capsys, tmp_path):
    """Groups without a signal are sampled again, with the weights of now: the next step's request comes after them."""
    small |= {
        "filter_groups": "resample",
        "prompts_per_step": 4,
        "num_minibatches": 2,
        "max_resample_rounds": 3,
        "checkpoint_every": 1,
    }
    whole = rows(run(small, run_dir=str(tmp_path / "whole")))
    assert [row["staleness/steps"] for row in whole[1:]] == [0, 1, 1, 1]
    assert any(row["groups"] > 4 for row in whole[2:])
    score = trainer.Trainer.score

    def kill_in_step_3(self, batch, rewards):
        if len(read_rows(self.run.path / "metrics.jsonl")) == 3:
            os.kill(self.sampler._process.pid, signal.SIGKILL)
        return score(self, batch, rewards)

    monkeypatch.setattr(trainer.Trainer, "score", kill_in_step_3)
    assert cli.main(["train", "tiny", *(f"{name}={value}" for name, value in small.items())]) == 3
    assert "ended by signal 9 while sampling" in capsys.readouterr().err
    monkeypatch.undo()
    assert (Path(small["run_dir"]) / "checkpoints" / "step_000002" / "ahead_00000.safetensors").exists()
    assert rows(run(small, resume=True)) == whole


def test_ctrl_c_leaves_no_sampler(small, monkeypatch):
    made = []

    def press(self, batch, rewards):
        made.append(self.sampler._process.pid)
        assert runs(made[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer.Trainer, "score", press)
    with pytest.raises(KeyboardInterrupt):
        run(small)
    assert not runs(made[0])


def test_ctrl_c_at_the_start_leaves_no_sampler(small, monkeypatch):
    def press(self, doing):
        raise KeyboardInterrupt

    monkeypatch.setattr(BackgroundSampler, "_receive", press)
    before = children(os.getpid())
    with pytest.raises(KeyboardInterrupt) as caught:  # it keeps the traceback, as a notebook does
        BackgroundSampler(configs.make(small), "nowhere", 0, [1], 64)
    assert not children(os.getpid()) - before
    assert caught


def test_the_sampler_ends_with_a_trainer_that_is_killed_even_while_it_imports(small):
    code = (
        "from dgpo import config\n"
        "from dgpo.rollout.background import BackgroundSampler\n"
        f"BackgroundSampler(config.make({small!r}), 'nowhere', 0, [1], 64)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) as made:
        until(lambda: any(map(ignores_ctrl_c, children(made.pid))) or made.poll() is not None, "a sampler")
        assert made.poll() is None, made.stderr.read().decode()
        sampler = stopped(children(made.pid))
        made.kill()
        until_gone(sampler)


class TestFailures:
    @pytest.fixture
    def sampler(self, small):
        made = trainer.Trainer(configs.make(small))
        yield made.sampler
        made.sampler.close()

    def request(self, count=4):
        return [[3, 4, 5]] * count, list(range(count)), trainer.Sampling(8)

    def test_a_request_that_was_begun_is_answered_once_and_by_the_old_weights(self, sampler, checkpoint):
        from dgpo.model.loading import load_lm

        lm, _ = load_lm(checkpoint)
        sampler.load(lm.named_parameters())
        old = sampler.generate(*self.request())
        sampler.begin(*self.request())
        with pytest.raises(RuntimeError, match="begun already"):
            sampler.begin(*self.request())
        with torch.no_grad():
            for p in lm.parameters():
                p.mul_(1.2)
        sampler.load(lm.named_parameters())
        assert len(sampler.generate([[3, 4]], [99], trainer.Sampling(8))) == 1  # another request does not take it
        assert torch.equal(sampler.generate(*self.request()).rollout_logp, old.rollout_logp)
        assert sampler.staleness == 1
        new = sampler.generate(*self.request())
        assert sampler.staleness == 0
        assert not torch.equal(new.rollout_logp, old.rollout_logp)
        sampler._pipe.close()  # as when the trainer is killed
        assert sampler._process.wait(timeout=WATCHDOG) == 0

    def test_a_bug_of_its_is_shown_with_the_traceback(self, sampler):
        sampler.begin([[3, 10**6]], [1], trainer.Sampling(8))
        with pytest.raises(SamplerError, match=r"(?s)process \d+ failed while sampling:\nTraceback .*IndexError"):
            sampler.load([])
        with pytest.raises(SamplerError, match="ended with exit code 1"):
            sampler.generate(*self.request())

    def test_its_death_is_told_with_the_signal(self, sampler):
        os.kill(sampler._process.pid, signal.SIGKILL)
        with pytest.raises(SamplerError, match="ended by signal 9 while sampling"):
            sampler.generate(*self.request())
        with pytest.raises(SamplerError, match="ended by signal 9 while loading weights"):
            sampler.load([("model.norm.weight", torch.ones(10_000_000))])

    def test_its_silence_ends_it(self, sampler):
        sampler.timeout = 0.5  # however long: one that is stopped stays silent
        os.kill(sampler._process.pid, signal.SIGSTOP)
        with pytest.raises(SamplerError, match=r"did not answer within timeout=0\.5 s while sampling"):
            sampler.generate(*self.request())
        assert sampler._process.poll() == -signal.SIGKILL

    def test_so_does_not_reading_what_it_is_sent(self, sampler):
        sampler.timeout = 0.5
        os.kill(sampler._process.pid, signal.SIGSTOP)
        with pytest.raises(SamplerError, match=r"did not read within timeout=0\.5 s while sampling"):
            sampler.begin([[3] * 1_000_000], [1], trainer.Sampling(8))

    def test_a_start_that_fails_names_the_reason(self, small):
        config = configs.make({**small, "model": "nowhere/at/all"})
        with pytest.raises(SamplerError, match=r"failed while starting: model='nowhere/at/all' does not exist$"):
            BackgroundSampler(config, "nowhere", 0, [1], 64)


def test_what_does_not_go_together(small):
    with pytest.raises(ConfigError, match="importance_correction='mask' has nothing to correct"):
        configs.make({**small, "importance_correction": "mask"})
    with pytest.raises(ConfigError, match=r"vllm\.tensor_parallel=2 must be 1"):
        configs.make({**small, "rollout": "vllm", "vllm": {"tensor_parallel": 2}})
