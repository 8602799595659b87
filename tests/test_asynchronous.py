"""Sampling a step ahead in another process: what is trained on, exact resume, and a process that fails."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import trainer
from dgpo.config import ConfigError
from dgpo.rollout import SamplerError, TransformersSampler
from dgpo.rollout.background import BackgroundSampler
from dgpo.runfolder import read_rows
from dgpo.trainer import train


@pytest.fixture
def small(small):
    return {**small, "asynchronous": True, "lr": 3e-3}


def rows(folder):
    return [
        {k: v for k, v in row.items() if not k.startswith("seconds/")}
        for row in read_rows(Path(folder) / "metrics.jsonl")
    ]


def run(small, **overrides):
    return train(configs.make({**small, **overrides}))


class TestOneStepOff:
    @pytest.fixture
    def seen(self, monkeypatch):
        """What each step learned from, and the weights that it started with."""
        seen, update = [], trainer.Trainer.update

        def watch(self, step, batch):
            seen.append((batch, {name: w.detach().clone() for name, w in self.engine.weights()}))
            return update(self, step, batch)

        monkeypatch.setattr(trainer.Trainer, "update", watch)
        return seen

    def test_completions_are_by_the_policy_of_the_step_before(self, small, seen, tmp_path):
        """The first steps of a synchronous run, sampled again here with the weights of the step before."""
        folder = run(small)
        steps, seen[:] = seen[:], []
        run(small, asynchronous=False, run_dir=str(tmp_path / "other"))
        first = seen[0]
        assert torch.equal(steps[0][0].tokens, first[0].tokens)  # nothing was there to sample ahead with
        assert all(torch.equal(w, first[1][name]) for name, w in steps[0][1].items())
        made = trainer.Trainer(configs.make({**small, "asynchronous": False, "run_dir": str(tmp_path / "third")}))
        for k, (batch, _) in enumerate(steps):
            made.sampler.load(steps[max(k - 1, 0)][1].items())
            again, _, _ = made.rollout()
            assert torch.equal(again.tokens, batch.tokens), k
            assert torch.equal(again.rollout_logp, batch.rollout_logp), k
            assert torch.equal(batch.old_logp, batch.rollout_logp), k  # the ratio is against the policy that sampled
        got = rows(folder)
        assert [row["staleness/steps"] for row in got[1:]] == [0, 1, 1, 1]
        assert got[1]["mismatch/mean_abs"] < 1e-5
        assert all(row["mismatch/mean_abs"] > 1e-3 < row["mismatch/kl"] * 1e2 for row in got[2:])
        assert all(row["ratio/min"] < 0.999 for row in got[2:])

    def test_resampled_groups_are_by_the_policy_of_now(self, small, seen):
        folder = run(small, zero_variance="resample", prompts=4, updates=2, resample_rounds=3)
        assert len(seen) == 4
        assert [row["staleness/steps"] for row in rows(folder)[1:]] == [0, 1, 1, 1]
        assert any(row["groups"] > 4 for row in rows(folder)[2:])


def test_a_run_continues_as_if_it_had_not_stopped(small, tmp_path):
    whole = run(small, run_dir=str(tmp_path / "whole"))
    updates, update = [], trainer.Trainer.update

    def stop_in_step_4(self, step, batch):
        updates.append(step)
        if step == 4:
            raise KeyboardInterrupt
        return update(self, step, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "update", stop_in_step_4)
        with pytest.raises(KeyboardInterrupt):
            run(small, checkpoint_every=1)
    assert (Path(small["run_dir"]) / "checkpoints" / "step_000003" / "ahead_00000.safetensors").exists()
    assert rows(run(small, checkpoint_every=1, resume=True)) == rows(whole)
    assert updates == [1, 2, 3, 4]


class TestFailures:
    @pytest.fixture
    def sampler(self, small):
        made = trainer.Trainer(configs.make(small))
        yield made.sampler
        made.sampler.close()

    def request(self, count=4):
        return [[3, 4, 5]] * count, list(range(count)), trainer.Sampling(8)

    def test_a_request_that_was_begun_is_answered_once_and_by_the_old_weights(self, sampler, checkpoint):
        from dgpo.model import load_lm

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

    def test_its_exception_is_shown_with_the_traceback(self, sampler):
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
        sampler.timeout = 0.5
        os.kill(sampler._process.pid, signal.SIGSTOP)
        with pytest.raises(SamplerError, match=r"did not answer within timeout=0\.5 s while sampling"):
            sampler.generate(*self.request())
        assert sampler._process.poll() == -signal.SIGKILL

    def test_it_ends_with_the_trainer(self, small):
        made = trainer.Trainer(configs.make(small))
        process = made.sampler._process
        made.sampler._pipe.close()  # as when the trainer is killed
        assert process.wait(timeout=60) == 0

    def test_a_start_that_fails_names_the_reason(self, small):
        config = configs.make({**small, "model": "nowhere/at/all"})
        with pytest.raises(SamplerError, match=r"(?s)failed while starting:.*nowhere/at/all"):
            BackgroundSampler(config, "nowhere", 0, [1], 64)

    def test_a_run_whose_sampler_dies_stops_and_goes_on_as_if_it_had_not(self, small, monkeypatch, capsys, tmp_path):
        whole = rows(run(small, run_dir=str(tmp_path / "whole")))
        score = trainer.Trainer.score

        def kill_in_step_3(self, batch, rewards):
            if self.engine.updates == 8:  # four a step
                os.kill(self.sampler._process.pid, signal.SIGKILL)
                time.sleep(0.1)
            return score(self, batch, rewards)

        monkeypatch.setattr(trainer.Trainer, "score", kill_in_step_3)
        words = [f"{name}={value}" for name, value in small.items()]
        assert cli.main(["train", "tiny", *words]) == 3
        assert "ended by signal 9 while sampling" in capsys.readouterr().err
        monkeypatch.undo()
        assert rows(run(small, resume=True)) == whole


def test_what_does_not_go_together(small):
    with pytest.raises(ConfigError, match="correction='mask' has nothing to correct"):
        configs.make({**small, "correction": "mask"})
    with pytest.raises(ConfigError, match=r"vllm\.tensor_parallel=2 must be 1"):
        configs.make({**small, "rollout": "vllm", "vllm": {"tensor_parallel": 2}})


def test_other_samplers_start_nothing(small):
    made = trainer.Trainer(configs.make({**small, "asynchronous": False}))
    assert isinstance(made.sampler, TransformersSampler)
