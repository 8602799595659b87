"""dtype="float16": the loss is scaled, overflow halves the scale and skips the step, and checkpoints keep the scale."""

import pytest
import torch
from test_engine import made

from dgpo import config as configs
from dgpo import trainer
from dgpo.config import ConfigError
from dgpo.engine import Engine, NonFiniteError, load_deepspeed
from dgpo.run.rows import read_metrics


@pytest.fixture
def fp16(monkeypatch):
    """torch computes in float16 on any CPU; DeepSpeed asks the processor for instructions."""
    monkeypatch.setattr(load_deepspeed().get_accelerator(), "is_fp16_supported", lambda: True)


def test_a_processor_without_it_is_refused(small, monkeypatch):
    monkeypatch.setattr(load_deepspeed().get_accelerator(), "is_fp16_supported", lambda: False)
    with pytest.raises(ConfigError, match=r"dtype='float16' needs a GPU, .* use 'bfloat16' or 'float32'"):
        trainer.train(configs.make({**small, "dtype": "float16"}))


@pytest.mark.usefixtures("fp16")
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_scale_changes_no_gradient(stage):
    engine, batch = made(stage, "float16")
    plain, _ = made(stage, "float32")
    assert engine.deepspeed.optimizer.loss_scale == 2**16
    few = batch.select(torch.arange(4))
    one = engine.update(few, lambda micro: 1e-3 * engine(micro)[0].sum())
    other = plain.update(few, lambda micro: 1e-3 * plain(micro)[0].sum())
    assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=0.01)


@pytest.mark.usefixtures("fp16")
@pytest.mark.parametrize("stage", [2, 3])
def test_overflow_skips_the_step_with_half_the_scale_until_it_fits(stage):
    engine, batch = made(stage, "float16")
    few = batch.select(torch.arange(2))

    def weights():
        return torch.cat([p.detach().flatten().clone() for _, p in engine.named_full_parameters()])

    before, scale = weights(), engine.deepspeed.optimizer.loss_scale
    assert engine.update(few, lambda micro: 100 * engine(micro)[0].sum()) is None
    assert torch.equal(before, weights())
    assert engine.deepspeed.optimizer.loss_scale == scale / 2
    assert engine.updates == 0
    reports = [engine.update(few, lambda micro: 100 * engine(micro)[0].sum()) for _ in range(12)]
    assert reports[-1]["grad_norm"] > 0
    assert not torch.equal(before, weights())
    assert engine.updates == sum(report is not None for report in reports)


@pytest.mark.usefixtures("fp16")
def test_what_overflows_unscaled_or_has_no_finite_loss_diverges():
    engine, batch = made(2, "float16")
    few = batch.select(torch.arange(2))
    with pytest.raises(NonFiniteError, match="NaN or infinite"):
        engine.update(few, lambda micro: engine(micro)[0].sum() * torch.inf)

    def until_it_fits():
        while engine.update(few, lambda micro: 1e8 * engine(micro)[0].sum()) is None:
            pass

    with pytest.raises(NonFiniteError, match="even unscaled"):
        until_it_fits()


@pytest.mark.usefixtures("fp16")
@pytest.mark.parametrize("stage", [2, 3])
def test_a_checkpoint_keeps_the_scale(tmp_path, stage):
    engine, batch = made(stage, "float16")
    few = batch.select(torch.arange(2))
    assert engine.update(few, lambda micro: 100 * engine(micro)[0].sum()) is None
    engine.save(tmp_path)
    other, _ = made(stage, "float16")
    assert other.deepspeed.optimizer.loss_scale == 2**16
    other.load(tmp_path, 0)
    assert other.deepspeed.optimizer.loss_scale == 2**15


@pytest.mark.usefixtures("fp16")
def test_a_run_resumes_with_its_scale(small, monkeypatch, tmp_path):
    scales = []
    original = Engine.update

    def update(self, *args):
        scales.append(self.deepspeed.optimizer.loss_scale)
        return original(self, *args)

    monkeypatch.setattr(Engine, "update", update)
    settings = {**small, "dtype": "float16", "zero_stage": 2, "self_check": "warn"}
    whole = read_metrics(trainer.train(configs.make({**settings, "run_dir": str(tmp_path / "whole")})))
    undisturbed, scales[:] = [*scales], []
    trainer.train(configs.make({**settings, "steps": 2}))
    again = read_metrics(trainer.train(configs.make({**settings, "resume": True})))
    assert scales == undisturbed
    rows = [[{k: v for k, v in row.items() if "seconds/" not in k} for row in run] for run in (whole, again)]
    assert rows[0] == rows[1]
    assert all(row["updates"] <= small["num_minibatches"] for row in whole[1:])
