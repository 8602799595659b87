"""AReaL's actor loss with any method of dgpo. AReaL has no hook: `docs/integrations/areal.patch` calls this function.

    DGPO_METHOD=dgpo DGPO_METHOD_PARAMS='{"n": 2}' python examples/math/gsm8k_rl.py ...

Rejection sampling, the decoupled loss and the aggregation (token-mean) stay AReaL's.
"""

import functools
import math
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dgpo.integrations.common import as_ratio_loss, hook, method_from_environment

TESTED = "1.0.4"
_arguments = ("logprobs", "proximal_logprobs", "old_logprobs", "advantages", "eps_clip", "loss_mask", "cu_seqlens")
_theirs = hook("areal", TESTED, "areal.utils.functional.functional:ppo_actor_loss_fn", *_arguments)
_method = functools.cache(method_from_environment)


def ppo_actor_loss_fn(
    logprobs: Tensor,
    proximal_logprobs: Tensor,
    advantages: Tensor,
    loss_mask: Tensor,
    cu_seqlens: Tensor | None = None,
    **rest: Any,
) -> tuple[Tensor, dict]:
    """AReaL's own loss without its clipping, with A·w_log/r as A; tokens are `[B, T]`, or packed with `cu_seqlens`."""
    given = (logprobs, proximal_logprobs, advantages, loss_mask.bool())
    if logprobs.ndim == 1 and cu_seqlens is not None:
        lengths = cu_seqlens.diff().tolist()
        rows = (pad_sequence([*x.split(lengths)], batch_first=True) for x in given)
        live = pad_sequence([logprobs.new_ones(length).bool() for length in lengths], batch_first=True)
        advantages, proximal, _ = (x[live] for x in as_ratio_loss(*rows, _method()))
    elif logprobs.ndim == 2:
        advantages, proximal, _ = as_ratio_loss(*given, _method())
    else:
        raise ValueError(f"logprobs of shape {tuple(logprobs.shape)} must be [B, T], or packed with cu_seqlens")
    rest |= {"eps_clip": math.inf, "eps_clip_higher": None, "c_clip": None, "importance_sampling_level": "token"}
    return _theirs(logprobs, proximal, advantages=advantages, loss_mask=loss_mask, cu_seqlens=cu_seqlens, **rest)
