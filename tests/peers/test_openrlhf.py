"""Every method in OpenRLHF's PolicyLoss, and the patch that puts it there."""

import importlib.util
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch

if importlib.util.find_spec("openrlhf") is None:
    pytest.skip("openrlhf is not installed: make test-peers", allow_module_level=True)

import patches
from peer_batches import KEYS, ours, same

import dgpo

NEEDS_A_GPU = ("flash_attn", "flash_attn.bert_padding", "flash_attn.utils", "flash_attn.utils.distributed")


@pytest.fixture(scope="module")
def adapter():
    with mock.patch.dict(sys.modules, {name: mock.MagicMock() for name in NEEDS_A_GPU if name not in sys.modules}):
        from dgpo.integrations import openrlhf

        yield openrlhf


def theirs(adapter, batch, method, token_mean=True, **kwargs):
    loss = adapter.PolicyLoss(method=method, token_level_loss=token_mean, dual_clip=3.0, **kwargs.pop("settings", {}))
    logp = batch["logp"].clone().requires_grad_()
    loss(logp, batch["old_logp"], batch["advantage"], action_mask=batch["mask"], **kwargs)[0].backward()
    return logp.grad


@pytest.mark.parametrize("how", ["token-mean", "seq-mean-token-mean"])
@pytest.mark.parametrize("key", KEYS)
def test_every_method_has_our_gradient(adapter, batch, key, how):
    method = dgpo.methods.get(key)
    same(theirs(adapter, batch, method, how == "token-mean"), ours(batch, method, how))


def test_its_correction_multiplies(adapter, batch):
    sampler = batch["old_logp"] + 0.3 * torch.randn_like(batch["old_logp"])
    settings = {"is_correction_level": "token", "is_correction_mode": "clip", "is_correction_threshold": (0.0, 1.2)}
    factor = (batch["old_logp"] - sampler).exp().clamp(max=1.2)
    grad = theirs(adapter, batch, dgpo.methods.get("dgpo"), rollout_log_probs=sampler, settings=settings)
    same(grad, ours(batch, "dgpo", "token-mean") * factor)


def test_a_token_beyond_its_clamp_keeps_its_gradient(adapter, batch):
    batch["old_logp"][0, 0] = batch["logp"][0, 0] + 40.0
    same(theirs(adapter, batch, dgpo.methods.get("gppo")), ours(batch, "gppo", "token-mean"))


def test_the_method_comes_from_the_environment(adapter, monkeypatch):
    monkeypatch.setenv("DGPO_METHOD", "gppo")
    monkeypatch.setenv("DGPO_METHOD_PARAMS", '{"eps_high": 0.28}')
    assert adapter.PolicyLoss().method == dgpo.methods.get("gppo", eps_high=0.28)


def test_the_patch_applies_to_the_released_source(tmp_path):
    source = Path(importlib.util.find_spec("openrlhf").origin).parent / "trainer/ray/ppo_actor.py"
    text = patches.apply("openrlhf", source, "openrlhf/trainer/ray/ppo_actor.py", tmp_path)
    assert "from dgpo.integrations.openrlhf import PolicyLoss" in text
