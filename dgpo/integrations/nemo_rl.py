"""NeMo-RL's policy loss with any method of dgpo. NeMo-RL has no hook: `docs/integrations/nemo_rl.patch` uses this
class.

    uv run examples/run_grpo.py ... +loss_fn.method=dgpo '+loss_fn.method_params={n: 2}'

KL, corrections of the sampler and the aggregation (`token_level_loss`) stay NeMo-RL's.
"""

import math
from typing import Any

import torch
from torch import Tensor

from dgpo.integrations.common import as_ratio_loss, hook, make_method, refuse_unused

TESTED = "0.7.0"
_PLACE = "nemo_rl.algorithms.loss.loss_functions:ClippedPGLossFn"
_Base = hook("nemo-rl", TESTED, _PLACE, "cfg")
_arguments = ("next_token_logprobs", "data", "global_valid_seqs", "global_valid_toks")
hook("nemo-rl", TESTED, f"{_PLACE}.__call__", *_arguments)
_SWITCHES = ("disable_ppo_ratio", "force_on_policy_ratio", "sequence_level_importance_ratios", "use_cispo")
_UNUSED = {"ratio_clip_min": 0.2, "ratio_clip_max": 0.2, "ratio_clip_c": None, **dict.fromkeys(_SWITCHES, False)}


class ClippedPGLossFn(_Base):
    """NeMo-RL's own loss without its clipping, with A·w_log/r as A.

    The method is `loss_fn.method` (default dgpo) with `loss_fn.method_params`. Raises ConfigError for a setting of
    NeMo-RL's clipping, which would have no effect.
    """

    def __init__(self, cfg: Any, **rest: Any):
        self.method = make_method(getattr(cfg, "method", "dgpo"), getattr(cfg, "method_params", None))
        refuse_unused(cfg, _UNUSED, f"loss_fn.method={self.method.key!r}: use loss_fn.method_params")
        super().__init__(cfg, **rest)
        self.ratio_clip_min = self.ratio_clip_max = math.inf

    def __call__(self, next_token_logprobs: Tensor, data: Any, global_valid_seqs: Any, global_valid_toks: Any):
        names = ("prev_logprobs", "advantages")  # [B, S], of which the first token has no log-probability
        mask = (data["token_mask"] * data["sample_mask"][:, None])[:, 1:]
        given = (data[name][:, 1:] for name in names)
        advantages, prev_logprobs, _ = as_ratio_loss(next_token_logprobs, *given, mask, self.method)
        new = dict(zip(names, (prev_logprobs, advantages), strict=True))
        data = data | {name: torch.cat([data[name][:, :1], x], 1) for name, x in new.items()}
        return super().__call__(next_token_logprobs, data, global_valid_seqs, global_valid_toks)
