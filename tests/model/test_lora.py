"""LoRA: adapters alone are trained, and all else sees ordinary weights that give the same probabilities."""

import pytest
import torch
from running import rows, run, weights
from safetensors.torch import load_file

from dgpo import config as configs
from dgpo import plan, shapes
from dgpo.config import ConfigError
from dgpo.config_parts import Lora
from dgpo.model import lora
from dgpo.model.loading import load_lm

pytest.importorskip("peft", reason="LoRA needs the extra `lora`")
TOKENS = torch.tensor([[3, 4, 5, 6, 7, 8]])


@pytest.fixture
def adapted(checkpoint):
    lm, _ = load_lm(checkpoint)
    lora.add(lm, Lora(r=4, alpha=8), seed=0)
    return lm


@pytest.fixture
def learning(small):
    return {**small, "lora": {"r": 4, "alpha": 8}, "lr": 0.01}


def logits(lm):
    with torch.no_grad():
        return lm(TOKENS).logits


def test_training_begins_at_the_start_policy(adapted, checkpoint):
    start, _ = load_lm(checkpoint)
    assert torch.equal(logits(adapted), logits(start))
    assert {n for n, _ in lora.merged(adapted)} == {n for n, _ in start.named_parameters()}
    assert all(torch.equal(a, b) for (_, a), b in zip(lora.merged(adapted), start.parameters(), strict=True))
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == 4 * shapes.Shape.of(start.config).lora_width


def test_merged_weights_give_the_probabilities_of_the_adapted_model(adapted, checkpoint):
    for name, p in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(p, std=0.1, generator=torch.Generator().manual_seed(1))
    plain, _ = load_lm(checkpoint)
    moved = logits(adapted)
    assert not torch.allclose(moved, logits(plain), atol=0.01)
    plain.load_state_dict(dict(lora.merged(adapted)), strict=False)  # tied weights have one name
    torch.testing.assert_close(logits(plain), moved, rtol=1e-4, atol=1e-5)


def test_it_learns_resumes_bit_for_bit_and_leaves_an_ordinary_policy(learning, tmp_path, checkpoint):
    whole = run(learning)
    parted = str(tmp_path / "parted")
    run(learning, run_dir=parted, steps=2)
    joined = run(learning, run_dir=parted, resume=True)
    assert [row["reward/mean"] for row in rows(joined)[1:]] == [row["reward/mean"] for row in rows(whole)[1:]]
    learned, start = weights(whole), load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(learned.values(), weights(joined).values(), strict=True))
    assert learned.keys() == start.keys()
    moved = {name for name in start if not torch.equal(learned[name], start[name])}
    assert moved == {name for name in start if name.endswith("_proj.weight")}, "embeddings and norms are frozen"
    again = run(learning, run_dir=str(tmp_path / "again"), model=str(whole / "policy"), lora={"r": 0}, steps=1)
    assert again.exists()


def test_its_checkpoint_holds_the_adapters_alone(learning, tmp_path):
    saved = run(learning, steps=2) / "checkpoints" / "step_000002" / "rank_00000.safetensors"
    assert all("lora_" in key for key in load_file(saved))
    full = run(learning, run_dir=str(tmp_path / "full"), lora={"r": 0}, steps=2)
    assert saved.stat().st_size < 0.5 * (full / "checkpoints" / "step_000002" / saved.name).stat().st_size


def test_the_sampler_computes_with_the_additions(learning):
    shared = rows(run(learning, zero_stage=2, dtype="bfloat16"))[1:]
    assert max(row["mismatch/kl"] for row in shared) < 1e-3
    learning |= {"run_dir": learning["run_dir"] + "-beside", "asynchronous": True, "kl_coef": 0.1}
    first, *later = rows(run(learning))[1:]  # in a process of its own, one step behind
    assert first["mismatch/kl"] < 1e-9
    assert all(1e-6 < row["mismatch/kl"] < 1 for row in later)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"zero_stage": 3}, r"lora\.r above 0 needs zero_stage=1 or 2"),
        (
            {"lora": {"r": 2, "target_modules": ["none"]}},
            r"lora\.target_modules=\['none'\] .*down_proj, .*q_proj",
        ),
    ],
)
def test_what_cannot_be_adapted_is_refused(learning, changes, words):
    with pytest.raises(ConfigError, match=words):
        run(learning, **changes)


def test_a_missing_peft_is_named(learning, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package peft: pip install 'dgpo\[lora\]'"):
        run(learning)


def test_plan_counts_what_is_trained():
    whole, low = (
        plan.predict(configs.load("r1-distill-1.5b", data="x", prompts_per_step=64, lora={"r": r}), 1) for r in (0, 32)
    )
    share = 32 * low.shape.lora_width / low.shape.parameters
    assert share == pytest.approx(0.0208, abs=0.0005)
    for part in ("optimizer", "gradients"):
        assert low.memory["update"][part] == pytest.approx(share * whole.memory["update"][part])
    assert low.memory["update"]["weights"] == whole.memory["update"]["weights"]
    assert low.seconds["update"] < 0.85 * whole.seconds["update"]
