"""Every method in slime's place for a policy loss, and the patch, on a checkout named by DGPO_SLIME."""

import os
from pathlib import Path

import patches
import pytest
import torch
from peer_batches import KEYS, ours, same

import dgpo
from dgpo.integrations import slime


@pytest.mark.parametrize("key", KEYS)
def test_every_method_has_our_gradient(monkeypatch, batch, key):
    """Tokens of all samples in a row, summed by sample and divided as slime's sum_of_sample_mean is."""
    monkeypatch.setattr(slime, "_method", lambda: dgpo.methods.get(key))
    logp, live = batch["logp"].clone().requires_grad_(), batch["mask"]
    masks = [torch.ones(int(n)) for n in live.sum(1)]
    loss, clipped = slime.policy_loss(logp[live], batch["old_logp"][live], batch["advantage"][live], masks)
    assert loss.shape == clipped.shape == (live.sum(),)
    sum(part.mean() for part in loss.split([len(mask) for mask in masks])).div(len(masks)).backward()
    same(logp.grad, ours(batch, key, "seq-mean-token-mean"))


def test_masked_tokens_have_no_say(monkeypatch, batch):
    monkeypatch.setattr(slime, "_method", lambda: dgpo.methods.get("gspo"))
    logp = batch["logp"].clone().requires_grad_()
    given = (x.flatten() for x in (logp, batch["old_logp"], batch["advantage"]))
    slime.policy_loss(*given, list(batch["mask"].double()))[0].sum().div(8).backward()
    same(logp.grad, ours(batch, "gspo", "seq-mean-token-sum"))


def test_samples_spread_over_ranks_are_refused(batch):
    with pytest.raises(ValueError, match="3 log-probabilities for 12 tokens: context parallelism must be 1"):
        slime.policy_loss(*(batch[k][0, :3] for k in ("logp", "old_logp", "advantage")), [torch.ones(12)])


def test_the_patch_applies_to_the_source(tmp_path):
    if not (checkout := os.environ.get("DGPO_SLIME")):
        pytest.skip("DGPO_SLIME does not name a checkout of slime")
    place = "slime/backends/megatron_utils/loss.py"
    assert "dgpo_policy_loss(log_probs" in patches.apply("slime", Path(checkout) / place, place, tmp_path)
