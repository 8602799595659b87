"""Every method as a policy loss of SkyRL."""

import importlib.util
import pickle
import typing

import pytest
import torch
import typing_extensions

if importlib.util.find_spec("skyrl") is None:
    pytest.skip("skyrl is not installed: make test-peers", allow_module_level=True)
typing.TypedDict = typing_extensions.TypedDict  # SkyRL 0.3.0 takes the one of typing, which pydantic refuses below 3.12

from peer_batches import KEYS, ours, same
from skyrl.backends.skyrl_train.utils import ppo_utils
from skyrl.train.config import make_config

import dgpo
from dgpo.errors import ConfigError
from dgpo.integrations import skyrl as adapter

AGGREGATION = {
    "token_mean": "token-mean",
    "sequence_mean": "seq-mean-token-mean",
    "seq_mean_token_sum_norm": "constant",
}


def theirs(batch, key, how="token_mean", sampler=None, **settings):
    config = make_config(algorithm_cls=adapter.AlgorithmConfig)().trainer.algorithm
    for name, value in settings.items():
        setattr(config, name, value)
    logp, mask = batch["logp"].clone().requires_grad_(), batch["mask"].double()
    scaled = ppo_utils.apply_loss_reduction_to_advantages_minibatch(batch["advantage"], mask, how, 8, mask.shape[1])
    loss, _ = ppo_utils.PolicyLossRegistry.get(f"dgpo:{key}")(
        logp, batch["old_logp"], scaled, config=config, loss_mask=mask, rollout_logprobs=sampler
    )
    loss.backward()
    return logp.grad


@pytest.mark.parametrize("how", AGGREGATION)
@pytest.mark.parametrize("key", [key for key in KEYS if key != "maspo"])
def test_every_method_has_our_gradient(batch, key, how):
    length = batch["mask"].shape[1] if how == "seq_mean_token_sum_norm" else None
    same(theirs(batch, key, how), ours(batch, key, AGGREGATION[how], length))


def test_a_method_that_looks_at_the_size_of_advantages_is_refused(batch):
    with pytest.raises(ConfigError, match="policy_loss_type='maspo': it looks at the size of advantages"):
        theirs(batch, "maspo")


def test_parameters_come_from_the_config(batch):
    method = dgpo.methods.get("dgpo", n=3)
    same(theirs(batch, "dgpo", method_params={"n": 3}), ours(batch, method, "token-mean"))
    config = make_config(algorithm_cls=adapter.AlgorithmConfig).from_cli_overrides(
        ["trainer.algorithm.policy_loss_type=dgpo", "trainer.algorithm.method_params={n: 3}"]
    )
    assert dict(config.trainer.algorithm.method_params) == {"n": 3}


def test_its_own_losses_stay_and_ours_travel_to_workers():
    assert ppo_utils.PolicyLossRegistry.get("gspo").__name__ == "gspo_policy_loss"
    sent = pickle.loads(pickle.dumps(ppo_utils.PolicyLossRegistry.get("dgpo")))
    assert sent.func is adapter.policy_loss


def test_its_correction_multiplies(batch):
    sampler = batch["old_logp"] + 0.3 * torch.randn_like(batch["old_logp"])
    config = make_config(algorithm_cls=adapter.AlgorithmConfig)().trainer.algorithm.off_policy_correction
    config.tis_ratio_type, config.token_tis_ratio_clip_high = "token", 1.2
    factor = (batch["old_logp"] - sampler).exp().clamp(max=1.2)
    grad = theirs(batch, "dgpo", sampler=sampler, off_policy_correction=config)
    same(grad, ours(batch, "dgpo", "token-mean") * factor)
