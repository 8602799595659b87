"""Weights for vLLM in another process by its own transfer engine: the whole protocol on real processes, over gloo."""

import os
import signal
import socket
from contextlib import closing
from pathlib import Path

import gloo_engine
import pytest

from dgpo import config as configs
from dgpo.rollout import SamplerError, background, transfer
from dgpo.trainer import Trainer


@pytest.fixture
def make(small, monkeypatch):
    """Makes trainers whose sampler gets its weights so."""
    monkeypatch.setattr(background.transfer, "choose", lambda *_: gloo_engine.Gloo())
    monkeypatch.setattr(background, "__name__", "gloo_engine")  # the module that the sampler's process runs
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    return lambda **settings: Trainer(configs.make({**small, "asynchronous": True, "lr": 1e-2, **settings}))


def distance(parts, batch):
    return float((parts.engine.logp(batch)[0] - batch.rollout_logp)[batch.mask].abs().max())


@pytest.mark.parametrize(("embeddings", "stage"), [("tied", 3), ("untied", 1)])
def test_after_every_update_the_sampler_is_the_policy(make, embeddings, stage, request):
    parts = make(model=str(request.getfixturevalue(embeddings)), zero_stage=stage)
    with closing(parts.sampler), closing(parts.task):
        for step in range(3):
            batch = parts.sampler.generate(*parts.collector._requests(), parts.collector.sampling)
            assert distance(parts, batch) <= 1e-4, step
            scored, _ = parts.score(batch, parts.collector.sampling.temperature + 0 * batch.rollout_logp[:, :1])
            parts.update(step + 1, scored.replace(advantage=scored.advantage.fill_(1.0)))
            assert distance(parts, batch) > 1e-2
            parts.load_sampler()


class TestWhatGoesWrong:
    def test_a_port_in_use_is_not_taken(self, make, monkeypatch):
        free = transfer._free_port
        with socket.socket() as taken:
            taken.bind((transfer._HERE, 0))
            taken.listen()
            ports = iter([taken.getsockname()[1], free()])
            monkeypatch.setattr(transfer, "_free_port", lambda: next(ports))
            parts = make()
            with closing(parts.sampler), closing(parts.task):
                parts.load_sampler()
        assert next(ports, None) is None

    @pytest.mark.parametrize("place", ["describe", "hand_over"])
    def test_a_sampler_that_dies_during_the_transfer_is_named(self, make, monkeypatch, place):
        parts, tensors = make(), []
        own = getattr(gloo_engine.Gloo, place)

        def kill(self, *given):
            tensors.append(given)
            if len(tensors) == 3:
                os.kill(parts.sampler._process.pid, signal.SIGKILL)
                parts.sampler._process.wait()
            return own(self, *given)

        monkeypatch.setattr(gloo_engine.Gloo, place, kill)
        with (
            closing(parts.sampler),
            closing(parts.task),
            pytest.raises(SamplerError, match=r"process \d+ ended by signal 9 while loading weights$"),
        ):
            parts.load_sampler()
