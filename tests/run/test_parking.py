"""offload="rollout": the optimizer is in main memory while completions are sampled, and no number changes."""

from types import SimpleNamespace

import pytest
import torch

from dgpo import config as configs
from dgpo import trainer
from dgpo.config import ConfigError
from dgpo.run import parking
from dgpo.run.rows import read_metrics


class _Flat:
    def __init__(self):
        self.data = torch.ones(4)


def rows(settings):
    run = trainer.train(configs.make(settings))
    return [{k: v for k, v in row.items() if not k.startswith("seconds/")} for row in read_metrics(run)]


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_run_and_its_resumption_have_the_numbers_of_one_that_never_moves(small, tmp_path, stage):
    plain = {**small, "zero_stage": stage, "run_dir": str(tmp_path / "plain")}
    moved = {**small, "zero_stage": stage, "run_dir": str(tmp_path / "moved"), "offload": "rollout"}
    rows({**moved, "steps": 2})
    assert rows(plain) == rows({**moved, "resume": True})


@pytest.mark.parametrize("stage", [2, 3])
def test_it_is_away_when_the_sampler_wakes_and_back_for_the_updates(small, monkeypatch, stage):
    calls = []
    for name in ("to_host", "to_device"):
        original = getattr(parking, name)
        monkeypatch.setattr(parking, name, lambda *a, n=name, f=original: (calls.append(n), f(*a)))
    parts = trainer.Trainer(configs.make({**small, "offload": "rollout", "zero_stage": stage}))
    assert calls == ["to_host"]  # before the sampler is made
    batch, rewards, _ = parts.collector.collect()
    batch, _ = parts.score(batch, rewards)
    assert calls == ["to_host"]
    parts.update(1, batch)
    assert calls == ["to_host", "to_device"]
    monkeypatch.setattr(parts.sampler, "load", lambda weights: calls.append(f"load {len([*weights])}"))
    parts.load_sampler()
    assert calls == ["to_host", "to_device", "to_host", f"load {len([*parts.policy.parameters()])}"]
    parts.task.close()
    parts.run.close()


def test_deepspeed_moves_weights_and_moments_of_the_optimizer_alone(monkeypatch):
    """On a GPU into page-locked memory."""
    asked = []
    engine = SimpleNamespace(
        zero_optimization_stage=lambda: 2,
        offload_states=lambda include, pin_memory: asked.append(({kind.value for kind in include}, pin_memory)),
        reload_states=lambda: asked.append("back"),
    )
    parking.to_host(engine)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    parking.to_host(engine)
    parking.to_device(engine, torch.device("cpu"))
    assert asked == [({"hp_params", "optim_states"}, False), ({"hp_params", "optim_states"}, True), "back"]


def test_under_stage_3_weights_and_every_part_of_the_state_move():
    """Seen on the meta device; a parameter's data may not go there, so the weights are a plain tensor's here."""
    flat = _Flat()
    states = {flat: {"exp_avg": torch.ones(4), "exp_avg_sq": torch.ones(4), "step": torch.tensor(1.0)}}
    zero = SimpleNamespace(fp32_partitioned_groups_flat=[flat], optimizer=SimpleNamespace(state=states))
    engine = SimpleNamespace(zero_optimization_stage=lambda: 3, optimizer=zero)
    parking.to_device(engine, torch.device("meta"))
    assert {t.device.type for t in (flat.data, *states[flat].values())} == {"meta"}
    assert zero.optimizer.state[flat]["step"].shape == ()


def test_a_sampler_that_works_ahead_has_no_phase_to_park_in():
    with pytest.raises(ConfigError, match=r"offload='rollout' with asynchronous=True: .* use offload='optimizer'"):
        configs.load("tiny", offload="rollout", asynchronous=True)
