"""SkyRL's policy losses with any method of dgpo. Importing this module registers them; it is also an entry point of
SkyRL:

    python -m skyrl.train.entrypoints.main_base trainer.override_entrypoint=dgpo.integrations.skyrl \\
        trainer.algorithm.policy_loss_type=dgpo trainer.algorithm.method_params='{n: 2}' ...

Every method with a curve is `dgpo:KEY`, and also KEY where SkyRL has no loss of that name. SkyRL puts the aggregation
(`loss_reduction`) into the advantages, so a method must not look at their size: maspo is refused.
"""

import functools
import sys
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dgpo.errors import ConfigError
from dgpo.integrations.common import hook, make_method, supported, token_loss

TESTED = "0.3.0"
_UTILS = "skyrl.backends.skyrl_train.utils.ppo_utils"
_registry = hook("skyrl", TESTED, f"{_UTILS}:PolicyLossRegistry")
_reduce = hook("skyrl", TESTED, f"{_UTILS}:reduce_loss", "loss", "loss_mask")
_correct = hook("skyrl", TESTED, f"{_UTILS}:apply_off_policy_correction", "loss", "off_policy_correction")
_arguments = ("log_probs", "old_log_probs", "advantages", "config", "loss_mask", "rollout_logprobs")
hook("skyrl", TESTED, f"{_UTILS}:ppo_policy_loss", *_arguments)


@dataclass
class AlgorithmConfig(hook("skyrl", TESTED, "skyrl.train.config:AlgorithmConfig")):
    """SkyRL's own with `method_params`, the parameters of the method."""

    method_params: dict[str, Any] = field(default_factory=dict)


def policy_loss(
    key: str,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    config: Any,
    loss_mask: Tensor | None = None,
    rollout_logprobs: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """A policy loss as SkyRL calls it, by method `key`."""
    if key == "maspo":
        raise ConfigError("policy_loss_type='maspo': it looks at the size of advantages, which SkyRL scales first")
    method = make_method(key, getattr(config, "method_params", None))
    mask = loss_mask if loss_mask is not None else log_probs.new_ones(log_probs.shape)
    loss, w_log = token_loss(log_probs, old_log_probs, advantages, mask > 0, method)
    loss, mask, metrics = _correct(loss, old_log_probs, rollout_logprobs, mask, config.off_policy_correction)
    return _reduce(loss, mask), {"w_log_max": w_log.abs().max().item(), **metrics}


for _key in supported():
    for _name in (f"dgpo:{_key}", *({_key} - set(_registry.list_available()))):
        _registry.register(_name, functools.partial(policy_loss, _key))


def main() -> None:
    """Start SkyRL's training with the settings of the command line and `trainer.algorithm.method_params`."""
    import ray
    from skyrl.train.config import make_config
    from skyrl.train.entrypoints.main_base import skyrl_entrypoint
    from skyrl.train.utils import initialize_ray, validate_cfg

    config = make_config(algorithm_cls=AlgorithmConfig).from_cli_overrides(sys.argv[1:])
    validate_cfg(config)
    initialize_ray(config)
    ray.get(skyrl_entrypoint.remote(config))
