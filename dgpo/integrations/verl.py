"""verl's policy losses with any method of dgpo. Importing this module registers them.

    actor_rollout_ref.model.external_lib=dgpo.integrations.verl
    actor_rollout_ref.actor.policy_loss.loss_mode=dgpo

Every method with a curve is `dgpo:KEY`, and KEY where verl has no loss of that name. verl aggregates (`loss_agg_mode`).
Parameters and token records need this module's PolicyLossConfig as the `_target_` of policy_loss.
"""

import functools
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dgpo.integrations.common import hook, make_method, refuse_unused, supported, token_loss
from dgpo.integrations.records import TokenRecords
from dgpo.methods import Method

TESTED = "0.9.1"
_ALGOS = "verl.trainer.ppo.core_algos"
_CALLS = 64  # the loss does not know its step: this many calls make a step of the records
_CLIPPING = dict.fromkeys(("clip_ratio", "clip_ratio_low", "clip_ratio_high"), 0.2)
_losses = hook("verl", TESTED, f"{_ALGOS}:POLICY_LOSS_REGISTRY")
_register = hook("verl", TESTED, f"{_ALGOS}:register_policy_loss", "name")
_aggregate = hook("verl", TESTED, f"{_ALGOS}:agg_loss", "loss_mat", "loss_mask", "loss_agg_mode")
_arguments = (
    "old_log_prob",
    "log_prob",
    "advantages",
    "response_mask",
    "loss_agg_mode",
    "config",
    "rollout_is_weights",
)
hook("verl", TESTED, f"{_ALGOS}:compute_policy_loss_vanilla", *_arguments)


@dataclass
class PolicyLossConfig(hook("verl", TESTED, "verl.workers.config:PolicyLossConfig")):
    """verl's own with `method_params`, the method's parameters, and `token_records`, a new folder for them."""

    method_params: dict[str, Any] = field(default_factory=dict)
    token_records: str | None = None


@functools.cache
def _records(folder: str, method: Method) -> TokenRecords:
    return TokenRecords(folder, method)


def policy_loss(
    key: str,
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """A policy loss as verl calls it, by method `key`. Raises ConfigError for a clip_ratio, which has no effect."""
    refuse_unused(config, _CLIPPING, f"loss_mode={key!r}: use policy_loss.method_params")
    method = make_method(key, config.policy_loss.get("method_params", None))
    loss, w_log = token_loss(log_prob, old_log_prob, advantages, response_mask, method)
    if rollout_is_weights is not None:
        loss = loss * rollout_is_weights
    if folder := config.policy_loss.get("token_records", None):
        records = _records(folder, method)
        step, update = divmod(records.calls, _CALLS)
        records.add(step + 1, update, log_prob, old_log_prob, advantages, response_mask, w_log)
    total = _aggregate(loss_mat=loss, loss_mask=response_mask, loss_agg_mode=loss_agg_mode, **config.global_batch_info)
    return total, {"actor/w_log_max": w_log.abs().max().item()}


for _key in supported():
    for _name in (f"dgpo:{_key}", *({_key} - _losses.keys())):
        _register(_name)(functools.partial(policy_loss, _key))
