"""Every method as a policy loss of verl."""

import pytest
import torch

pytest.importorskip("verl", reason="verl is not installed: make test-peers")

from omegaconf import OmegaConf
from peer_batches import KEYS, ours, same
from verl.trainer.ppo import core_algos
from verl.utils.config import omega_conf_to_dataclass

import dgpo
from analysis import runs
from dgpo.errors import ConfigError
from dgpo.integrations import verl as adapter
from dgpo.objective import adapted_kl_coef

AGGREGATION = {
    "token-mean": "token-mean",
    "seq-mean-token-mean": "seq-mean-token-mean",
    "seq-mean-token-sum": "seq-mean-token-sum",
    "seq-mean-token-sum-norm": "constant",
}


def actor(**policy_loss):
    settings = {
        "_target_": "verl.workers.config.ActorConfig",
        "strategy": "fsdp",
        "rollout_n": 1,
        "ppo_micro_batch_size_per_gpu": 8,
        "policy_loss": {"_target_": "dgpo.integrations.verl.PolicyLossConfig", **policy_loss},
    }
    return omega_conf_to_dataclass(OmegaConf.create(settings))


def theirs(batch, name, how="token-mean", config=None, weights=None):
    logp = batch["logp"].clone().requires_grad_()
    loss, metrics = core_algos.get_policy_loss_fn(name)(
        old_log_prob=batch["old_logp"],
        log_prob=logp,
        advantages=batch["advantage"],
        response_mask=batch["mask"],
        loss_agg_mode=how,
        config=config or actor(),
        rollout_is_weights=weights,
    )
    loss.backward()
    assert all(isinstance(value, float) for value in metrics.values())
    return logp.grad


@pytest.mark.parametrize("how", AGGREGATION)
@pytest.mark.parametrize("key", KEYS)
def test_every_method_has_our_gradient(batch, key, how):
    length = batch["mask"].shape[1] if how == "seq-mean-token-sum-norm" else None
    same(theirs(batch, f"dgpo:{key}", how), ours(batch, key, AGGREGATION[how], length))


def test_the_covariance_methods_are_verls_own(batch):
    """They have no place in its hook. `share` covers all candidates, so verl's random choice has none to make."""
    everyone = {"clip_cov_ratio": 0.9, "clip_cov_lb": 0.2, "clip_cov_ub": 1.5}
    clip_cov = dgpo.methods.get("clip_cov", share=0.9, cov_low=0.2, cov_high=1.5)
    same(theirs(batch, "clip_cov", config=actor(**everyone)), ours(batch, clip_cov, "token-mean"))
    config = actor(kl_cov_ratio=0.1, ppo_kl_coef=2.0)
    same(
        theirs(batch, "kl_cov", config=config),
        ours(batch, dgpo.methods.get("kl_cov", share=0.1, coef=2.0), "token-mean"),
    )


def test_micro_batches_of_several_ranks_add_up(batch):
    """verl's totals of the global batch reach the aggregation: two halves on two ranks are the whole."""
    config, grads = actor(), []
    config.global_batch_info.update(dp_size=2, batch_num_tokens=batch["mask"].sum(), global_batch_size=8)
    for half in (slice(0, 4), slice(4, 8)):
        grads.append(theirs({k: v[half] for k, v in batch.items()}, "dgpo", config=config) / 2)  # FSDP averages
    same(torch.cat(grads), ours(batch, "dgpo", "token-mean"))


def test_corrections_of_the_sampler_multiply(batch):
    weights = torch.rand_like(batch["logp"])
    same(theirs(batch, "dgpo", weights=weights), ours(batch, "dgpo", "token-mean") * weights)


def test_parameters_come_from_the_config(batch):
    config = actor(loss_mode="dgpo", method_params={"n": 3, "eps_high": 0.28})
    same(theirs(batch, "dgpo", config=config), ours(batch, dgpo.methods.get("dgpo", n=3, eps_high=0.28), "token-mean"))
    with pytest.raises(ValueError, match="method 'dgpo' has no parameter 'k'"):
        theirs(batch, "dgpo", config=actor(method_params={"k": 1}))


def test_verls_own_losses_stay(batch):
    assert core_algos.POLICY_LOSS_REGISTRY["gspo"].__module__ == core_algos.__name__
    assert core_algos.POLICY_LOSS_REGISTRY["dgpo"].func is adapter.policy_loss


def test_a_clip_ratio_without_effect_is_refused(batch):
    config = actor()
    object.__setattr__(config, "clip_ratio_high", 0.28)
    with pytest.raises(ConfigError, match=r"clip_ratio_high=0.28 has no effect on loss_mode='dgpo'"):
        theirs(batch, "dgpo", config=config)


def test_token_records(batch, tmp_path, monkeypatch):
    config = actor(loss_mode="dgpo", token_records=str(tmp_path / "run"))
    monkeypatch.setattr(adapter, "_records", lambda folder, method, made=[]: made[0] if made else made.append(
        adapter.TokenRecords(folder, method, share=1.0)) or made[0])  # fmt: skip
    for _ in range(2):
        theirs(batch, "dgpo", config=config)
    adapter._records(None, None).flush()
    tokens = runs.read(tmp_path / "run").tokens()
    assert len(tokens) == 2 * int(batch["mask"].sum())
    assert set(tokens["update"]) == {0, 1}
    assert (tokens["token"] == -1).all()


def test_the_kl_coefficient_follows_verls_controller():
    controller, coefficient = core_algos.AdaptiveKLController(0.1, target_kl=0.05, horizon=1000), 0.1
    for kl in torch.rand(20, generator=torch.Generator().manual_seed(0)).mul(0.1).tolist():
        controller.update(kl, n_steps=256)
        coefficient = adapted_kl_coef(coefficient, kl, 0.05, 256 / 1000)
        assert coefficient == pytest.approx(controller.value, rel=1e-12)
