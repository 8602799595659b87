"""slime's policy loss with any method of dgpo. slime has no hook: `docs/integrations/slime.patch` calls this function.

    DGPO_METHOD=dgpo DGPO_METHOD_PARAMS='{"n": 2}' python train.py --advantage-estimator grpo ...

Importance sampling, masks and the reduction stay slime's.
"""

import functools

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from dgpo.integrations.common import method_from_environment, token_loss

_method = functools.cache(method_from_environment)


def policy_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, loss_masks: list[Tensor]
) -> tuple[Tensor, Tensor]:
    """As slime's compute_policy_loss, for the concatenated tokens of all samples: their losses, and a 0 for each.

    Raises ValueError if a sample is spread over ranks (context parallelism): a method sees whole completions.
    """
    lengths = [len(mask) for mask in loss_masks]
    if sum(lengths) != len(log_probs):
        raise ValueError(f"{len(log_probs)} log-probabilities for {sum(lengths)} tokens: context parallelism must be 1")
    mask = torch.cat([*loss_masks]).bool()
    given = (log_probs, old_log_probs, advantages, mask)
    rows = (pad_sequence([*x.split(lengths)], batch_first=True) for x in given)
    live = pad_sequence([torch.ones_like(mask).bool() for mask in loss_masks], batch_first=True)
    loss, _ = token_loss(*rows, _method())
    return loss[live], torch.zeros_like(log_probs)
