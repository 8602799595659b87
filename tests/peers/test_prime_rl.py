"""Every method as a custom loss of prime-rl, from a checkout named by DGPO_PRIME_RL (it is on no package index)."""

import os
import pkgutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

if not (checkout := os.environ.get("DGPO_PRIME_RL")):
    pytest.skip("DGPO_PRIME_RL does not name a checkout of prime-rl", allow_module_level=True)
sys.path.append(str(Path(checkout) / "src"))


class CustomLossConfig(SimpleNamespace):
    """What the loss reads of prime-rl's config, whose own package needs a library of prime-rl's."""


configs = ModuleType("prime_rl.configs.trainer")
configs.CustomLossConfig = configs.LossConfig = CustomLossConfig
configs.DefaultLossConfig = configs.IPOLossConfig = type("Other", (), {})
utils = ModuleType("prime_rl.utils.utils")  # which imports trackers
utils.import_object = pkgutil.resolve_name
for module in (configs, utils):
    sys.modules |= {module.__name__.rpartition(".")[0]: ModuleType(""), module.__name__: module}

from peer_batches import KEYS, ours, same
from prime_rl.trainer.rl.loss import compute_loss, setup_rl_loss_fn

import dgpo
from analysis import runs


def theirs(batch, weights=None, **kwargs):
    config = CustomLossConfig(import_path="dgpo.integrations.prime_rl.loss", kwargs=kwargs)
    logp = batch["logp"].clone().requires_grad_()
    rows = [list(x) for x in (logp, batch["old_logp"], batch["advantage"], batch["mask"])]
    loss, _ = compute_loss(
        *rows[:2], None, *rows[2:], weights, None, None, setup_rl_loss_fn(config), int(batch["mask"].sum()), 1, 1
    )
    loss.backward()
    return logp.grad


@pytest.mark.parametrize("key", KEYS)
def test_every_method_has_our_gradient(batch, key):
    same(theirs(batch, method=key), ours(batch, key, "token-mean"))


def test_parameters_and_weights(batch):
    weights = torch.rand_like(batch["logp"]) + 0.1
    mine = ours(batch, dgpo.methods.get("dgpo", n=3), "token-mean") * weights
    same(theirs(batch, list(weights), method="dgpo", n=3), mine)


def test_token_records(batch, tmp_path):
    from dgpo.integrations import prime_rl

    theirs(batch, method="dgpo", token_records=str(tmp_path / "run"))
    prime_rl._records(str(tmp_path / "run"), dgpo.methods.get("dgpo")).flush()
    tokens = runs.read(tmp_path / "run").tokens()
    assert 0 < len(tokens) <= batch["mask"].sum()
    assert (tokens["sampled"] < 1).all()
