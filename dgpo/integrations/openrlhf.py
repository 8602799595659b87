"""OpenRLHF's policy loss with any method of dgpo. OpenRLHF has no hook: `docs/integrations/openrlhf.patch` uses this
class.

    DGPO_METHOD=dgpo DGPO_METHOD_PARAMS='{"n": 2}' ray job submit ... openrlhf.cli.train_ppo_ray

Its corrections of the sampler and its aggregation stay.
"""

import math
from typing import Any

from torch import Tensor

from dgpo.integrations.common import as_ratio_loss, hook, method_from_environment

TESTED = "0.11.2"
_Base = hook("openrlhf", TESTED, "openrlhf.models.loss:PolicyLoss", "clip_eps_low", "clip_eps_high", "dual_clip")
_arguments = ("log_probs", "old_log_probs", "advantages", "action_mask")
hook("openrlhf", TESTED, "openrlhf.models.loss:PolicyLoss.forward", *_arguments)
_CLAMPED = 19.0  # nats: OpenRLHF cuts log r at 20, and with it the gradient


class PolicyLoss(_Base):
    """OpenRLHF's own loss without its clipping, with A·w_log/r as A; `method` defaults to DGPO_METHOD."""

    def __init__(self, *args: Any, method=None, **settings: Any):
        super().__init__(*args, **settings | {"policy_loss_type": "ppo"})
        self.clip_eps_low = self.clip_eps_high = math.inf
        self.dual_clip = None
        self.method = method or method_from_environment()

    def forward(self, log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, action_mask: Tensor, **rest: Any):
        given = (log_probs, old_log_probs, advantages, action_mask)
        advantages, old_log_probs, _ = as_ratio_loss(*given, self.method, _CLAMPED)
        return super().forward(log_probs, old_log_probs, advantages, action_mask, **rest)
