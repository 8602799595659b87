"""Every method in AReaL's actor loss, padded and packed, and the patch that puts it there."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest
import torch

if (found := importlib.util.find_spec("areal")) is None:
    pytest.skip("areal is not installed: make test-peers", allow_module_level=True)

import patches
from peer_batches import KEYS, ours, same

import dgpo

ROOT = Path(found.origin).parent


@pytest.fixture(scope="module")
def adapter():
    """With AReaL's file of losses alone: the package itself starts what needs GPUs."""
    stubs = {name: ModuleType(name) for name in ("areal", "areal.utils", "areal.utils.functional")}
    for name, module in stubs.items():
        module.__path__ = [str(ROOT.joinpath(*name.split(".")[1:]))]
    stubs |= {name: mock.MagicMock() for name in ("areal.api", "areal.api.cli_args", "areal.utils.data")}
    with mock.patch.dict(sys.modules, stubs):
        from dgpo.integrations import areal

        yield areal


def theirs(adapter, monkeypatch, batch, key, packed=False):
    monkeypatch.setattr(adapter, "_method", lambda: dgpo.methods.get(key))
    logp, live = batch["logp"].clone().requires_grad_(), batch["mask"]
    rows = {"logprobs": logp, "proximal_logprobs": batch["old_logp"], "old_logprobs": batch["old_logp"]}
    rows |= {"advantages": batch["advantage"], "loss_mask": live}
    extra = {}
    if packed:
        rows = {name: x[live] for name, x in rows.items()}
        extra["cu_seqlens"] = torch.cat([torch.zeros(1, dtype=torch.long), live.sum(1).cumsum(0)])
    adapter.ppo_actor_loss_fn(**rows, **extra, eps_clip=0.2, c_clip=3.0)[0].backward()
    return logp.grad


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("key", KEYS)
def test_every_method_has_our_gradient(adapter, monkeypatch, batch, key, packed):
    same(theirs(adapter, monkeypatch, batch, key, packed), ours(batch, key, "token-mean"))


def test_the_patch_applies_to_the_released_source(tmp_path):
    text = patches.apply("areal", ROOT / "trainer/ppo/actor.py", "areal/trainer/ppo/actor.py", tmp_path)
    assert "from dgpo.integrations.areal import ppo_actor_loss_fn" in text
