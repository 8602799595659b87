"""The distance of the policy that sampled from the one that is trained: measured, and bounded.

d = log π_trainer − log π_sampler of a sampled token, both under the softmax over all tokens. It is 0 for a sampler that
computes exactly what the trainer computes; other kernels and precisions, stale weights and a stale prefix cache change
it. The ratio π_trainer/π_sampler is e^d. `objective.importance_weights` corrects for it.
"""

import torch
from torch import Tensor

from dgpo.distributed.process_group import CommonError

MEASURES = ("mean_abs", "ratio_min", "ratio_mean", "ratio_max", "kl")


class MismatchError(CommonError):
    """The sampler and the trainer are further apart than `max_mismatch` allows."""


def fill(rollout_logp: Tensor, logp: Tensor, mask: Tensor) -> tuple[Tensor, int]:
    """The sampler's log-probabilities with the trainer's, a ratio of 1, for NaN on live tokens; how many those are."""
    lost = mask & rollout_logp.isnan()
    return torch.where(lost, logp, rollout_logp), int(lost.sum())


def compare(logp: Tensor, rollout_logp: Tensor, mask: Tensor) -> dict[str, float]:
    """The MEASURES over the live tokens of `[B, T]`.

    mean_abs   mean |d|, in nats
    kl         mean (e^d − 1 − d): the k3 estimate of KL(sampler ‖ trainer) per token, as the sampler drew the tokens
    """
    d = (logp - rollout_logp)[mask]
    values = (
        d.abs().mean(),
        d.min().exp(),
        d.double().exp().mean(),
        d.max().exp(),
        (torch.expm1(d.double()) - d).mean(),
    )
    return dict(zip(MEASURES, map(float, values), strict=True))


def guard(step: int, metrics: dict[str, float | None], bound: float | None) -> None:
    """Raise MismatchError when the step's mismatch/mean_abs is above `bound`, or NaN."""
    measured = metrics["mismatch/mean_abs"]
    if bound is None or measured is None or measured <= bound:
        return
    raise MismatchError(
        f"step {step}: mean |log π_trainer − log π_sampler| = {measured:.3g} nats a token, above max_mismatch="
        f"{bound:g}; no update was made on this batch. Likely causes: weights that did not reach the sampler, a prefix "
        "cache of older weights, another dtype in sampler and trainer; with asynchronous=True, a step that moves the "
        "policy that far"
    )
