"""The loop: it learns, repeats itself, and stops at a NaN without applying it."""

import contextlib
import itertools
import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from alike import assert_alike, steady_draws
from running import rows, run, weights
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from dgpo import collect, methods, trainer
from dgpo import config as configs
from dgpo.config import ConfigError
from dgpo.model import tiny
from dgpo.objective import group_advantages, loss_weights, overlong_penalty
from dgpo.run.checkpoint import CheckpointError
from dgpo.run.rows import read_rows
from dgpo.trainer import TrainingDiverged, train


def test_a_run_leaves_what_is_promised(small):
    folder = run(small)
    got = rows(folder)
    assert [row["step"] for row in got] == [0, 1, 2, 3, 4]
    assert [("eval/avg@2" in row) for row in got] == [True, False, True, False, True]
    promised = {
        "reward/mean", "reward/std", "length/mean", "truncated", "entropy", "kl/reference", "grad_norm/max",
        "lr", "ratio/min", "ratio/mean", "ratio/max", "groups/zero_variance", "mismatch/mean_abs",
        *(f"{kind}/{region}" for kind in ("tokens", "w_log", "w_prob") for region in methods.REGIONS),
    }  # fmt: skip
    assert promised <= set(got[1])
    timed = read_rows(folder / "metrics.jsonl")[1]
    assert {"seconds/rollout", "seconds/reward", "seconds/old_logp", "seconds/update"} <= set(timed)
    for kind in ("tokens", "w_log", "w_prob"):
        assert sum(got[1][f"{kind}/{region}"] for region in methods.REGIONS) == pytest.approx(1)
    assert got[1]["kl/reference"] == pytest.approx(0, abs=1e-6)
    assert got[4]["kl/reference"] > 0
    assert got[1]["mismatch/mean_abs"] < 1e-5
    assert got[1]["ratio/min"] < 1 < got[1]["ratio/max"]

    tokens = pd.concat([pd.read_parquet(f) for f in sorted(folder.glob("tokens/*.parquet"))])
    assert sorted(tokens["step"].unique()) == [1, 2, 3, 4]
    again = methods.get("dgpo").weight(
        *(torch.tensor(tokens[c].to_numpy()).double()[:, None] for c in ("logp", "old_logp", "advantage"))
    )
    assert tokens["w_log"].to_numpy() == pytest.approx(again.squeeze(1).numpy(), rel=1e-4, abs=1e-8)
    assert (tokens["w_prob"] * tokens["prob"]).to_numpy() == pytest.approx(
        tokens["w_log"].to_numpy(), rel=1e-3, abs=1e-8
    )

    AutoModelForCausalLM.from_pretrained(folder / "policy")
    AutoTokenizer.from_pretrained(folder / "policy")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["after"]["eval/avg@2"] == got[4]["eval/avg@2"]
    assert len(list(folder.glob("checkpoints/*"))) == 2


def test_the_same_settings_give_the_same_run_and_another_seed_another(small, tmp_path):
    first, second = run(small), run(small, run_dir=str(tmp_path / "again"))
    assert rows(first) == rows(second)
    assert all(torch.equal(a, b) for a, b in zip(weights(first).values(), weights(second).values(), strict=True))
    assert rows(run(small, run_dir=str(tmp_path / "other"), seed=1)) != rows(first)


@pytest.mark.parametrize("key", methods.names())
def test_every_method_trains(small, key):
    folder = run(small, method=key, steps=1, eval_every=0)
    last = rows(folder)[-1]
    assert last["updates"] == 4
    assert math.isfinite(last["grad_norm/max"])


def test_a_method_of_the_entropy_now_gets_that_of_the_policy_being_updated(small, tmp_path):
    """With a wide band it is GRPO; with a narrow one the first update is GRPO's, and later ones lose tokens."""
    small |= {"steps": 1, "token_records": 10_000}

    def tokens(method, **band):
        folder = run(small, method=method, method_params=band, run_dir=str(tmp_path / f"{method}-{len(seen)}"))
        seen.append(pd.read_parquet(folder / "tokens" / "step_000001.parquet"))
        return seen[-1]

    seen = []
    grpo, narrow = tokens("grpo"), tokens("erc", ratio_low=0.9999, ratio_high=1.0001)
    pd.testing.assert_frame_equal(tokens("erc", ratio_low=0.01, ratio_high=100.0), grpo)
    dropped, clipped = ((frame["w_log"] == 0).groupby(frame["update"]).mean() for frame in (narrow, grpo))
    assert dropped[0] == clipped[0] == 0
    assert dropped[3] > clipped[3] + 0.3


def test_the_adapted_kl_coefficient_is_the_one_that_the_updates_use(small, tmp_path):
    """From step 2 on a run with a target of the KL is another one than with the coefficient fixed."""
    small |= {"kl_coef": 0.5, "steps": 2, "eval_every": 0}
    fixed = rows(run(small))
    adapted = rows(run(small, kl_target=100.0, kl_horizon=32, run_dir=str(tmp_path / "adapted")))
    lower = rows(run(small, kl_target=100.0, kl_horizon=32, kl_coef=0.4, run_dir=str(tmp_path / "lower")))
    assert [row.get("kl/coef") for row in adapted] == [None, 0.5, 0.4]
    assert adapted[1]["grad_norm/mean"] == fixed[1]["grad_norm/mean"] != lower[1]["grad_norm/mean"]
    assert adapted[2]["grad_norm/mean"] != fixed[2]["grad_norm/mean"]


@pytest.mark.parametrize("cut", [{"micro_batch_size": 1}, {"max_tokens_per_micro_batch": 78}])
@pytest.mark.parametrize("key", ["dgpo", "bapo", "kl_cov"])
def test_cutting_the_updates_into_micro_batches_changes_nothing(small, checkpoint, monkeypatch, tmp_path, key, cut):
    steady_draws(monkeypatch.setattr)
    small |= {"method": key} | ({} if key == "dgpo" else {"steps": 2})
    assert_alike(run(small), run(small, **cut, run_dir=str(tmp_path / "cut")), checkpoint)


def test_recomputed_layers_give_the_same_run(small, tmp_path):
    """Through sampling, the reference and two steps: the sampler's eval() does not switch it off, a copy is a copy."""
    again = run(small, steps=2, gradient_checkpointing=True, run_dir=str(tmp_path / "again"))
    assert rows(again) == rows(run(small, steps=2))


@pytest.mark.parametrize(("stage", "offload"), [(2, "none"), (3, "none"), (1, "optimizer"), (3, "optimizer+params")])
def test_zero_stages_and_offload_agree_and_go_on(small, checkpoint, monkeypatch, tmp_path, stage, offload):
    steady_draws(monkeypatch.setattr)
    small |= {"eval_every": 1, "steps": 2}
    elsewhere = {"zero_stage": stage, "offload": offload, "run_dir": str(tmp_path / "other")}
    run(small, **elsewhere | {"steps": 1})
    assert_alike(run(small), run(small, resume=True, **elsewhere), checkpoint)


def test_the_saved_policy_has_its_buffers_and_each_weight_once(small):
    parts = trainer.Trainer(configs.make(small))
    parts.policy.lm.register_buffer("bias", torch.ones(3))
    parts.policy.lm.register_buffer("cache", torch.ones(3), persistent=False)
    tied = {"lm_head.weight"}
    assert set(parts.engine.full_state_dict()) == set(parts.policy.lm.state_dict()) - tied
    assert "bias" in parts.engine.full_state_dict()


def test_generation_settings_that_contradict_each_other_do_not_cost_the_policy(small, checkpoint, tmp_path):
    model = shutil.copytree(checkpoint, tmp_path / "model")
    path = model / "generation_config.json"
    given = {**json.loads(path.read_text()), "do_sample": False, "temperature": 0.6, "top_p": 0.95}
    path.write_text(json.dumps(given))
    saved = json.loads((run(small, model=str(model), steps=1) / "policy" / "generation_config.json").read_text())
    assert {k: saved.get(k, False) for k in given} == given


def test_another_device_than_deepspeed_takes_is_refused(small, monkeypatch):
    monkeypatch.setattr("deepspeed.get_accelerator", lambda: SimpleNamespace(device_name=lambda: "cuda"))
    with pytest.raises(ConfigError, match=r"device='cpu', but DeepSpeed trains on cuda .* CUDA_VISIBLE_DEVICES="):
        trainer.Trainer(configs.make({**small, "device": "cpu"}))


def test_bfloat16_with_every_extra_term_runs(small):
    last = rows(
        run(small, steps=2, dtype="bfloat16", kl_coef=0.01, entropy_coef=0.001, schedule="cosine", warmup_updates=2)
    )[-1]
    assert math.isfinite(last["grad_norm/max"])
    assert last["lr"] < 3e-4


def test_schedule_warms_up_and_decays(small):
    lrs = [
        row["lr"]
        for row in rows(
            run(small, steps=4, num_minibatches=1, schedule="cosine", warmup_updates=1, lr=1e-3, micro_batch_size=16)
        )[1:]
    ]
    assert lrs == pytest.approx([5e-4, 1e-3, 7.5e-4, 2.5e-4])


def test_evaluation_frames_the_run_even_when_it_is_off(small):
    summary = json.loads((run(small, eval_every=0) / "summary.json").read_text())
    assert (summary["before"]["step"], summary["after"]["step"]) == (0, 4)


def test_gspo_tokens_are_in_the_regions_of_their_sequence(small):
    folder = run(small, method="gspo", steps=2, token_records=4096)
    tokens = pd.concat([pd.read_parquet(f) for f in folder.glob("tokens/*.parquet")])
    zero = tokens["w_log"] == 0
    assert zero.any()
    assert (tokens["region"].isin(["LN", "HP"]) == zero).all()


class TestZeroVariance:
    def test_drop_leaves_silent_groups_out(self, small):
        for row in rows(run(small, filter_groups="drop"))[1:]:
            silent = row["groups/zero_variance"]
            assert row["groups"] == 8
            assert row["updates"] == min(4, 4 * (8 - silent))

    def test_resample_samples_on_until_the_batch_is_full_and_remembers_where_it_was(self, small, tmp_path):
        got = rows(run(small, filter_groups="resample", steps=2, prompts_per_step=6, num_minibatches=6, eval_every=0))
        assert any(row["groups"] > 6 for row in got[1:])
        state = json.loads(next(Path(small["run_dir"]).glob("checkpoints/step_000002/state.json")).read_text())
        assert state["position"] == sum(row["groups"] for row in got[1:])

    def test_a_step_without_any_signal_changes_nothing(self, small, monkeypatch):
        monkeypatch.setattr(
            "dgpo.tasks.chain.ChainTask.rewards", lambda self, problems, completions: [0.0] * len(problems)
        )
        folder = run(small, filter_groups="drop", steps=1)
        assert rows(folder)[1]["updates"] == 0
        start = AutoModelForCausalLM.from_pretrained(tiny.checkpoint(configs.make(small).tiny)).state_dict()
        assert all(torch.equal(v, start[k]) for k, v in weights(folder).items())


class TestFailures:
    @pytest.fixture(autouse=True)
    def _registry(self, monkeypatch):
        monkeypatch.setattr(methods.base, "_REGISTRY", dict(methods.base._REGISTRY))

    @pytest.mark.parametrize("poison", [math.nan, math.inf])
    def test_a_nan_stops_the_run_before_it_is_applied(self, small, poison):
        calls = []

        @methods.register("poisoned")
        @dataclass(frozen=True)
        class Poisoned(methods.Method):
            def weight(self, logp, old_logp, advantage, mask=None):
                calls.append(1)
                w = (logp - old_logp).exp()
                return (
                    torch.where(advantage != 0, poison, w) if len(calls) == 21 else w
                )  # two micro-batches an update: step 3, update 2

        def varied(self, problems, completions):
            return [float(i % 2) for i in range(len(problems))]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("dgpo.tasks.chain.ChainTask.rewards", varied)
            with pytest.raises(TrainingDiverged, match=r"step 3, update 2 of poisoned\(\)") as error:
                run(small, method="poisoned")
        folder = Path(small["run_dir"])
        assert "step_000002" in str(error.value)
        assert [row["step"] for row in rows(folder)] == [0, 1, 2]
        batch = load_file(folder / "failed" / "step_000003.safetensors")
        assert {"input_ids", "mask", "old_logp", "advantage"} <= set(batch)
        assert not (folder / "summary.json").exists()

    def test_numbers_beyond_float32_are_recorded_and_those_beyond_float64_capped(self, small):
        """A learning rate that throws probabilities to e^-1000: the run stays readable, or stops by name."""
        with contextlib.suppress(TrainingDiverged):
            run(small, method="pg", lr=5.0)
        assert len(rows(small["run_dir"])) > 1
        for row in rows(small["run_dir"]):
            assert all(value is None or math.isfinite(value) for value in row.values())

    @pytest.mark.parametrize(("stage", "dtype"), [(1, "float32"), (2, "float32"), (3, "float32"), (1, "bfloat16")])
    def test_weights_are_as_they_were_when_a_step_is_refused(self, small, stage, dtype):
        from dgpo.engine import NonFiniteError

        made = trainer.Trainer(configs.make({**small, "zero_stage": stage, "dtype": dtype}))
        made.restore()

        def weights():
            return [w.detach().clone() for _, w in made.engine.named_full_parameters()]

        def update(loss):
            made.engine.update(batch, lambda micro: loss(made.engine(micro)[0]))

        before = weights()
        batch, rewards, _ = made.collector.collect()
        batch, _ = made.score(batch, rewards)
        nan, infinite = itertools.cycle([1.0, math.nan]), itertools.cycle([1.0, math.inf])  # in the second micro-batch
        for broken in (
            lambda x: x.sum() * next(nan),
            lambda x: x.sum() * next(infinite),
            lambda x: torch.sqrt(0 * x.sum()),  # finite, with a gradient that is NaN
            lambda x: 1e25 * (x - x.detach()).sum(),  # finite, with a gradient whose norm is not
        ):
            with pytest.raises(NonFiniteError):
                update(broken)
            assert all(torch.equal(a, b) for a, b in zip(before, weights(), strict=True))
        made.run.close()
        update(torch.sum)  # nothing of the refused gradients is left over
        assert all(w.isfinite().all() for w in weights())

    def test_a_window_larger_than_a_completion_is_refused(self, small):
        with pytest.raises(ConfigError, match="overlong_window=15 must be at most max_new_tokens=14"):
            run(small, overlong_window=15)

    def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(self, small, monkeypatch):
        saved = trainer.Engine.save
        calls = []

        def full(self, folder):
            saved(self, folder)
            calls.append(1)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")

        monkeypatch.setattr(trainer.Engine, "save", full)
        with pytest.raises(CheckpointError, match=r"step_000004 could not be written .*No space left"):
            run(small)
        monkeypatch.undo()
        folder = Path(small["run_dir"])
        assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step_000002"]
        joined = run(small, resume=True)
        assert [row["step"] for row in rows(joined)] == [0, 1, 2, 3, 4]

    def test_a_failing_start_leaves_no_run_behind(self, small, tmp_path):
        with pytest.raises(ValueError, match="does not exist"):
            run(small, model=str(tmp_path / "no-such-model"))
        assert not Path(small["run_dir"]).exists()
        with pytest.raises(ConfigError, match="add up to at most the model's 512 positions"):
            run(small, max_new_tokens=500)
        with pytest.raises(ConfigError, match=r"max_new_tokens=14 must be at least 17.*difficulty=2"):
            run(small, difficulty=2)


class TestLongCompletions:
    @pytest.fixture
    def scored(self, small):
        """Scored batches of one rollout by settings: its completions have 3 to 14 tokens, some cut off at 14."""
        made = trainer.Trainer(configs.make(small))
        with contextlib.closing(made.run), contextlib.closing(made.sampler):
            made.restore()
            batch, rewards, _ = made.collector.collect()
            cut = torch.arange(len(batch)) % 3 == 0
            batch = batch.replace(finished=~cut)

            def of(**changes):
                made.config = made.config.model_copy(update=changes)
                return made.score(batch, rewards)[0]

            yield of, rewards, batch

    def test_the_penalty_is_in_the_advantage_and_not_in_the_reward(self, scored):
        of, rewards, batch = scored
        length = batch.mask.sum(1).view_as(rewards)
        assert 0 < ((penalty := overlong_penalty(length, 14, 2)) < 0).sum() < penalty.numel()
        given = of(overlong_window=2)
        assert torch.equal(given.advantage.view_as(rewards), group_advantages(rewards + penalty, "grpo"))

    def test_what_was_cut_off_has_no_gradient_and_no_share_of_the_mean(self, scored):
        of, _, batch = scored
        whole, masked = of(), of(mask_truncated=True)
        assert torch.equal(masked.mask, batch.mask & batch.finished[:, None])
        assert torch.equal(masked.advantage, whole.advantage)
        weights = loss_weights(masked.mask, "token-mean")
        assert weights.sum() == pytest.approx(1)
        assert (weights[~batch.finished] == 0).all()

    def test_a_run_with_both(self, small):
        last = rows(run(small, overlong_window=8, mask_truncated=True, loss_aggregation="seq-mean-token-mean"))[-1]
        assert last["step"] == 4


def test_prompts_are_made_once_where_nothing_is_sampled_ahead(small, monkeypatch):
    made, requests = [], collect.Collector._requests
    monkeypatch.setattr(collect.Collector, "_requests", lambda self: made.append(self.position) or requests(self))
    run(small, steps=3)
    assert made == [0, small["prompts_per_step"], 2 * small["prompts_per_step"]]


def test_it_learns(tmp_path):
    """The default run with chains of three, after 25 of its steps: 0.31 to 0.77, far outside chance."""
    easier = {"difficulty": 3, "tiny": {"steps": 1000, "max_difficulty": 3}}  # a warm-up of half the time
    folder = train(configs.load("tiny", **easier, run_dir=str(tmp_path / "run"), steps=25, eval_every=25, seed=3))
    summary = json.loads((folder / "summary.json").read_text())
    before, after = summary["before"], summary["after"]
    assert 0.15 < before["eval/avg@8"] < 0.5
    assert after["eval/avg@8_low"] > before["eval/avg@8_high"] + 0.1


def test_tensorboard_gets_the_same_numbers(small):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = run(small, log_to=["tensorboard"])
    assert len([*(folder / "tensorboard").iterdir()]) == 1
    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    logged = {event.step: event.value for event in events.Scalars("reward/mean")}
    assert logged == pytest.approx({row["step"]: row["reward/mean"] for row in rows(folder)[1:]})
