"""The sampler's distance from the trainer: its measures, its corrections, and the bound that stops a run."""

import math
from pathlib import Path

import pytest
import running
import torch

from dgpo import __main__ as cli
from dgpo import methods, objective, trainer
from dgpo.batch import Weighted
from dgpo.rollout import TransformersSampler, mismatch
from dgpo.run.rows import read_rows

SAMPLER = torch.tensor([0.5, 0.25, 0.125, 0.125])
TRAINER = torch.tensor([0.4, 0.2, 0.3, 0.1])
DRAWN = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 3]])  # eight tokens that are spread exactly as the sampler's probabilities
LIVE = torch.ones(1, 8, dtype=torch.bool)


def logs(probabilities):
    return probabilities[DRAWN].log()


def test_measures_are_those_of_the_two_distributions():
    got = mismatch.compare(logs(TRAINER), logs(SAMPLER), LIVE)
    assert tuple(got) == mismatch.MEASURES
    ratio = TRAINER / SAMPLER
    assert got["kl"] == pytest.approx(float((SAMPLER * -ratio.log()).sum()), rel=1e-5)
    assert got["mean_abs"] == pytest.approx(float((SAMPLER * ratio.log().abs()).sum()), rel=1e-5)
    assert (got["ratio_min"], got["ratio_max"]) == pytest.approx((0.8, 2.4))
    assert got["ratio_mean"] == pytest.approx(1.0)  # an expectation of a ratio over its own denominator


def test_what_is_masked_does_not_count():
    mask = LIVE.clone()
    mask[0, 6:] = False
    wild = logs(TRAINER).masked_fill(~mask, math.nan)
    got = mismatch.compare(wild, logs(SAMPLER), mask)
    assert got == pytest.approx(
        {"mean_abs": math.log(1.25), "ratio_min": 0.8, "ratio_mean": 0.8, "ratio_max": 0.8, "kl": math.log(1.25) - 0.2}
    )
    for kind in ("tis-token", "tis-sequence", "mask"):
        assert objective.importance_weights(wild, logs(SAMPLER), mask, kind).isfinite().all()


def test_without_truncation_the_corrected_mean_is_the_trainers_own():
    value = torch.tensor([1.0, -2.0, 5.0, 0.5])
    expected = float((TRAINER * value).sum())
    for kind, limits in (("tis-token", {"cap": 100.0}), ("mask", {"bounds": (0.0, 100.0)})):
        weight = objective.importance_weights(logs(TRAINER), logs(SAMPLER), LIVE, kind, **limits)
        assert float((weight * value[DRAWN]).mean()) == pytest.approx(expected, rel=1e-5)
    assert objective.importance_weights(logs(TRAINER), logs(SAMPLER), LIVE, "none") is None


def test_corrections_by_hand():
    rollout = torch.zeros(2, 3)
    logp = torch.tensor([[4.0, 1.5, 0.25], [0.4, 0.5, 5.0]]).log()
    mask = torch.tensor([[True, True, True], [True, True, False]])
    ratios = {
        "tis-token": [[2.0, 1.5, 0.25], [0.4, 0.5, 1.0]],
        "tis-sequence": [[1.5] * 3, [0.2] * 3],
        "mask": [[4.0, 1.5, 0.0], [0.0, 0.5, 1.0]],
        "sequence-mask": [[1.5] * 3, [0.0] * 3],  # 4 · 1.5 · 0.25 and 0.4 · 0.5
        "geometric-gate": [[1.0] * 3, [0.0] * 3],  # 1.5^(1/3) and 0.2^(1/2) = 0.447
    }
    for kind, expected in ratios.items():
        got = objective.importance_weights(logp, rollout, mask, kind, cap=2.0, bounds=(0.45, 5.0))
        torch.testing.assert_close(got[mask], torch.tensor(expected)[mask])
    capped = objective.importance_weights(logp, rollout, mask, "tis-sequence", cap=1.2)
    torch.testing.assert_close(capped, torch.tensor([[1.2] * 3, [0.2] * 3]))
    long = torch.full((1, 5000), 0.5)  # e^2500 is no float32
    assert objective.importance_weights(long, 0 * long, long > 0, "tis-sequence").unique().tolist() == [2.0]
    with pytest.raises(
        ValueError, match="importance_correction='tis' must be one of none, tis-token, tis-sequence, mask, "
    ):
        objective.importance_weights(logp, rollout, mask, "tis")


def test_a_nan_of_the_sampler_is_a_ratio_of_1_and_counted():
    rollout = torch.tensor([[-1.0, math.nan, -2.0, math.nan]])
    logp, mask = torch.full((1, 4), -1.5), torch.tensor([[True, True, True, False]])
    filled, lost = mismatch.fill(rollout, logp, mask)
    assert lost == 1
    assert filled[0, :3].tolist() == [-1.0, -1.5, -2.0]
    for kind in objective.CORRECTIONS[1:]:
        assert objective.importance_weights(logp, filled, mask, kind).isfinite().all()
    assert mismatch.compare(logp, filled, mask)["mean_abs"] == pytest.approx(1 / 3)


def test_a_run_whose_sampler_loses_a_log_probability_goes_on_and_says_so(monkeypatch, small):
    true = TransformersSampler.generate

    def generate(self, *args):
        batch = true(self, *args)
        first = torch.zeros_like(batch.mask)
        first[0, 0] = bool(len(batch))
        return batch.replace(rollout_logp=torch.where(first, math.nan, batch.rollout_logp))

    monkeypatch.setattr(TransformersSampler, "generate", generate)
    rows = run(small, self_check="warn", importance_correction="tis-token", steps=1)
    assert rows[1]["mismatch/nan"] == 1
    assert math.isfinite(rows[1]["mismatch/mean_abs"])


def test_the_correction_scales_the_policy_gradient_and_nothing_else():
    """The gradient of −c·A·ρ·w·log π + β·c·KL, term by term; ρ has no gradient of its own."""
    generator = torch.Generator().manual_seed(0)
    logp, old, ref = (-torch.rand(2, 3, generator=generator) for _ in range(3))
    factor = torch.tensor([[0.0, 0.5, 2.0], [1.0, 1.0, 0.3]])
    batch = Weighted(
        input_ids=torch.zeros(2, 4, dtype=torch.long),
        attention_mask=torch.ones(2, 4, dtype=torch.bool),
        mask=torch.ones(2, 3, dtype=torch.bool),
        rollout_logp=old,
        finished=torch.ones(2, dtype=torch.bool),
        sequence_id=torch.arange(2),
        advantage=torch.tensor([[1.0], [-0.5]]),
        old_logp=old,
        entropy=torch.zeros(2, 3),
        ref_logp=ref,
        loss_weight=torch.full((2, 3), 1 / 6),
    )
    kl_coef = 0.3

    def gradient(**changes):
        x = logp.clone().requires_grad_()
        changed = batch.replace(**{k: v(x) if callable(v) else v for k, v in changes.items()})
        loss, w_log = objective.objective(x, None, changed, methods.get("dgpo"), kl="k3", kl_coef=kl_coef)
        loss.backward()
        return x.grad, w_log

    plain, w_log = gradient()
    policy_term = -batch.loss_weight * batch.advantage * w_log
    kl_term = kl_coef * batch.loss_weight * (1 - (ref - logp).exp())
    torch.testing.assert_close(plain, policy_term + kl_term)
    corrected, same = gradient(importance_weight=factor)
    torch.testing.assert_close(corrected, policy_term * factor + kl_term)
    assert torch.equal(same, w_log)
    attached, _ = gradient(
        importance_weight=lambda x: objective.importance_weights(x, old, batch.mask, "tis-token", cap=9.0)
    )
    torch.testing.assert_close(attached, policy_term * (logp - old).exp() + kl_term)


def shifted(monkeypatch, by):
    """A sampler whose log-probabilities are off by `by` nats, which the comparison at the start would refuse."""
    true = TransformersSampler.generate

    def generate(self, *args):
        batch = true(self, *args)
        return batch.replace(rollout_logp=torch.where(batch.mask, batch.rollout_logp + by, 0))

    monkeypatch.setattr(TransformersSampler, "generate", generate)


def run(small, **overrides):
    folder = running.run(
        {**small, "steps": 1, "num_minibatches": 1, "overwrite": True, "self_check": "warn"}, **overrides
    )
    return read_rows(folder / "metrics.jsonl")


def test_a_run_reports_the_mismatch_and_applies_the_correction(small, monkeypatch):
    plain = run(small)[1]
    assert plain["mismatch/kl"] < 1e-9
    assert plain["mismatch/ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert "importance_weight/mean" not in plain
    shifted(monkeypatch, -math.log(4))  # the trainer thinks every token four times as likely
    off = run(small)[1]
    assert off["mismatch/mean_abs"] == pytest.approx(math.log(4), rel=1e-4)
    assert off["mismatch/kl"] == pytest.approx(4 - 1 - math.log(4), rel=1e-4)
    assert off["grad_norm/max"] == plain["grad_norm/max"]
    for overrides, factor in (
        ({"importance_correction": "tis-token"}, 2),
        ({"importance_correction": "tis-token", "importance_cap": 3.0}, 3),
        ({"importance_correction": "tis-sequence", "importance_cap": 7.0}, 7),
        ({"importance_correction": "mask"}, 4),
        ({"importance_correction": "mask", "importance_bounds": [0.5, 2.0]}, 0),
    ):
        row = run(small, **overrides)[1]
        assert row["importance_weight/mean"] == pytest.approx(factor, rel=1e-4)
        assert row["grad_norm/max"] == pytest.approx(factor * plain["grad_norm/max"], rel=1e-4)


def test_the_bound_stops_a_run_before_its_update(small, monkeypatch, capsys):
    assert len(run(small, max_mismatch=1e-4)) == 2
    shifted(monkeypatch, 0.5)
    updates = []
    monkeypatch.setattr(trainer.Engine, "update", lambda *_: updates.append(1))
    with pytest.raises(mismatch.MismatchError) as error:
        run(small, max_mismatch=0.1)
    for words in ("step 1", "= 0.5 nats", "max_mismatch=0.1", "weights that did not reach", "prefix cache", "dtype"):
        assert words in str(error.value)
    assert not updates
    assert [row["step"] for row in read_rows(Path(small["run_dir"]) / "metrics.jsonl")] == [0]
    words = [
        f"{name}={value}"
        for name, value in {**small, "max_mismatch": 0.1, "overwrite": True, "self_check": "warn"}.items()
    ]
    assert cli.main(["train", *words]) == 3
    assert "max_mismatch=0.1" in capsys.readouterr().err


def test_a_mismatch_that_is_no_number_is_above_every_bound():
    mismatch.guard(1, {"mismatch/mean_abs": None}, 0.1)  # a step without a token
    mismatch.guard(1, {"mismatch/mean_abs": 5.0}, None)
    mismatch.guard(1, {"mismatch/mean_abs": 0.1}, 0.1)
    with pytest.raises(mismatch.MismatchError, match="= nan"):
        mismatch.guard(1, {"mismatch/mean_abs": math.nan}, 1e9)
