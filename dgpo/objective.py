"""From rewards and log-probabilities to the one loss that every method shares.

    loss = Σ_t c_t · ( ρ_t · sg(p_t − A_t · w_log,t) · log π_t  +  β · KL_t  −  α · H_t )

w_log is the method's weight, p its penalty (0 for most), c_t the loss weight of a token. c_t is fixed for the whole
optimizer batch before it is cut into micro-batches, so the gradient does not depend on how it is accumulated. Only
the gradient of the first term has a meaning, its value has none: report rewards and weights instead. ρ_t is 1 unless
the sampler's distance from the trainer is corrected.

Shapes: rewards `[P, n]`, P prompts of n completions; token quantities `[B, T]`.
"""

import torch
from torch import Tensor

from dgpo.batch import Weighted
from dgpo.methods import Method

ADVANTAGES = ("grpo", "mean", "rloo", "maxrl", "batch-mean", "none")
AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant")
KL_KINDS = ("unbiased", "k1", "k2", "k3")
CORRECTIONS = ("none", "tis-token", "tis-sequence", "mask", "sequence-mask", "geometric-gate")


def group_advantages(rewards: Tensor, kind: str = "grpo") -> Tensor:
    """Advantages of n completions of each of P prompts, `[P, n]` → `[P, n]`.

        grpo         (R − mean) / (std + 1e-6), sample std; a group of one has mean 0 and std 1. arXiv 2402.03300
        mean         R − mean. Dr.GRPO, arXiv 2503.20783
        rloo         R − mean of the others; a group of one has baseline 0. arXiv 2402.14740
        maxrl        (R − mean) / mean, for rewards of 0 and more; 0 where the mean is 0 or less. arXiv 2602.02710
        batch-mean   R − mean of all P·n rewards (FlashREINFORCE): a group of equal rewards still teaches
        none         R

    Raises ValueError for another kind or another rank.
    """
    if rewards.dim() != 2:
        raise ValueError(f"rewards have shape {tuple(rewards.shape)}; expected [prompts, completions]")
    n = rewards.shape[1]
    centred = rewards
    if n > 1:  # a mean that is off by one ulp, divided by 1e-6, is no longer negligible: equal rewards give exactly 0
        centred = (rewards - rewards.mean(1, keepdim=True)).masked_fill(zero_variance(rewards)[:, None], 0)
    match kind:
        case "grpo":
            std = rewards.std(1, keepdim=True) if n > 1 else torch.ones_like(rewards)
            return centred / (std + 1e-6)
        case "mean":
            return centred
        case "rloo":
            return centred * n / (n - 1) if n > 1 else rewards
        case "maxrl":
            mean = rewards.mean(1, keepdim=True)
            return torch.where(mean > 0, centred / mean, 0)
        case "batch-mean":
            return (rewards - rewards.mean()) * float(rewards.amax() != rewards.amin())
        case "none":
            return rewards
    raise ValueError(f"advantage={kind!r} must be one of {', '.join(ADVANTAGES)}")


def zero_variance(rewards: Tensor) -> Tensor:
    """Groups whose rewards are all equal, `[P, n]` → bool `[P]`: under a group baseline they carry no gradient."""
    return rewards.amax(1) == rewards.amin(1)


def overlong_penalty(length: Tensor, limit: int, window: int) -> Tensor:
    """DAPO's soft penalty of long completions: 0 up to limit − window tokens, then down to −1 at `limit`.

    min(0, (limit − window − length) / window), of any shape. Source: arXiv 2503.14476, equation 13.
    """
    return ((limit - window - length.float()) / window).clamp(max=0)


def loss_weights(mask: Tensor, how: str = "token-mean", length: int | None = None) -> Tensor:
    """The loss weight of each token of one optimizer batch, float32 `[B, T]`, 0 on masked tokens.

        token-mean            1 / N                      N live tokens of the whole batch
        seq-mean-token-mean   1 / (S · T_i)              S sequences with a live token, T_i live tokens of sequence i
        seq-mean-token-sum    1 / S
        constant              1 / (S · length)           length: a constant, as in Dr.GRPO

    `mask` covers the whole optimizer batch, over all ranks. An empty completion counts nowhere. Raises ValueError for
    another `how`, or `constant` without `length`.
    """
    live = mask.float()
    per_sequence = live.sum(1, keepdim=True)
    sequences = (per_sequence > 0).float().sum().clamp(min=1)
    match how:
        case "token-mean":
            return live / live.sum().clamp(min=1)
        case "seq-mean-token-mean":
            return live / (sequences * per_sequence.clamp(min=1))
        case "seq-mean-token-sum":
            return live / sequences
        case "constant":
            if not length:
                raise ValueError(f"loss_aggregation='constant' needs a positive length (given {length!r})")
            return live / (sequences * length)
    raise ValueError(f"loss_aggregation={how!r} must be one of {', '.join(AGGREGATIONS)}")


def surrogate(
    logp: Tensor, w_log: Tensor, advantage: Tensor, coefficient: Tensor, penalty: Tensor | None = None
) -> Tensor:
    """Σ c · sg(penalty − A · w_log) · log π, a scalar. Tokens with c = 0 cost nothing, whatever their values."""
    term = advantage.detach() * w_log.detach() * _live(logp, coefficient)
    if penalty is not None:
        term = term - penalty.detach() * _live(logp, coefficient)
    return -(coefficient * _live(term, coefficient)).sum()


def kl_penalty(logp: Tensor, ref_logp: Tensor, kind: str = "k3", old_logp: Tensor | None = None) -> Tensor:
    """Per-token estimate of KL(π ‖ reference) with d = log ref − log π; the loss differentiates it.

        unbiased   r · (e^d − 1 − d), r = π/π_old    value and gradient are those of the KL, on tokens from π_old
        k1         −d                                on tokens from π: unbiased; its expected gradient is zero
        k2         d² / 2                            biased; its gradient is that of the KL
        k3         e^d − 1 − d                       unbiased and never negative; its gradient is that of KL(ref ‖ π)

    The statements on k1, k2 and k3 hold for the first update only, where π = π_old. `unbiased` needs old_logp. Source:
    Schulman, "Approximating KL divergence" (2020); unbiased: DeepSeek-V3.2, arXiv 2512.02556, as TRL has it. Raises
    ValueError for another kind.
    """
    d = ref_logp - logp
    match kind:
        case "unbiased":
            if old_logp is None:
                raise ValueError("kl='unbiased' needs old_logp")
            return (logp - old_logp).exp() * (torch.expm1(d) - d)
        case "k1":
            return -d
        case "k2":
            return d.square() / 2
        case "k3":
            return torch.expm1(d) - d
    raise ValueError(f"kl={kind!r} must be one of {', '.join(KL_KINDS)}")


def adapted_kl_coef(coef: float, kl: float, target: float, share: float) -> float:
    """The KL coefficient of the next step: coef · (1 + clip(kl/target − 1, −0.2, 0.2) · share).

    kl and target are in nats a token; share is the step's completions over the horizon, at most 1. Source: Ziegler et
    al. 2019, arXiv 1909.08593, section 2.2; verl's and OpenRLHF's AdaptiveKLController.
    """
    return coef * (1 + min(max(kl / target - 1, -0.2), 0.2) * share)


def importance_weights(
    logp: Tensor, rollout_logp: Tensor, mask: Tensor, kind: str, cap: float = 2.0, bounds: tuple = (0.5, 5.0)
) -> Tensor | None:
    """The factor ρ of each token's policy-gradient term, `[B, T]` without gradient; None for "none".

    With r_t = π_trainer/π_sampler of a token at rollout time,

        tis-token        min(r_t, C)                       C = cap
        tis-sequence     min(Π_t r_t, C)                   one weight for all tokens of a completion
        mask             r_t if low ≤ r_t ≤ high, else 0   (low, high) = bounds
        sequence-mask    Π_t r_t if that is within the bounds, else 0
        geometric-gate   1 if the geometric mean of r_t is within the bounds, else 0

    The sampler drew the tokens, but the gradient is for the trainer's policy; truncation bounds the variance at the
    price of a bias. A token's share in the normaliser stays, even if it is masked.
    Raises ValueError for another kind.

    Source: truncated importance sampling, token by token: Yao et al. 2025, "Your efficient RL framework secretly brings
    you off-policy RL training"; on whole sequences: Liu et al. 2025, "When speed kills stability"; mask: IcePop, Ling
    team 2025, "Small leak can sink a great ship", whose defaults are 0.5 and 5. sequence-mask is TRL's default (high 3,
    no low); geometric-gate is verl's rejection by the geometric mean, for bounds close to 1. As read, not as run.
    """
    d = torch.where(mask, logp - rollout_logp, 0).detach()
    match kind:
        case "none":
            return None
        case "tis-token":
            return d.exp().clamp(max=cap)
        case "tis-sequence":
            return d.sum(1, keepdim=True).exp().clamp(max=cap).expand_as(d).contiguous()
        case "mask":
            return _within(d.exp(), d.exp(), bounds)
        case "sequence-mask":
            ratio = d.sum(1, keepdim=True).exp()
            return _within(ratio, ratio, bounds).expand_as(d).contiguous()
        case "geometric-gate":
            mean = (d.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)).exp()
            return _within(mean, torch.ones_like(mean), bounds).expand_as(d).contiguous()
    raise ValueError(f"importance_correction={kind!r} must be one of {', '.join(CORRECTIONS)}")


def _within(ratio: Tensor, factor: Tensor, bounds: tuple) -> Tensor:
    """`factor` where low ≤ ratio ≤ high, else 0."""
    return torch.where((ratio >= bounds[0]) & (ratio <= bounds[1]), factor, 0)


def objective(
    logp: Tensor,
    entropy: Tensor | None,
    batch: Weighted,
    method: Method,
    *,
    kl: str = "unbiased",
    kl_coef: float = 0.0,
    entropy_coef: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The loss of one micro-batch and its weights, (scalar, w_log `[B, T]`).

    `entropy` is of logp's policy, for entropy_coef and for a method that needs entropy_now. `batch` has ref_logp if
    kl_coef is not 0, and w_log and penalty if the method needs the whole batch. The returned w_log is the method's own,
    without the importance weight. The losses of an optimizer batch's micro-batches, over all ranks, add up to its loss.
    """
    w_log, penalty = batch.w_log, batch.penalty
    if w_log is None:
        w_log, penalty = method.coefficients(logp, batch.old_logp, batch.advantage, batch.mask, batch.entropy, entropy)
    weight = batch.loss_weight if batch.importance_weight is None else batch.loss_weight * batch.importance_weight
    loss = surrogate(logp, w_log, batch.advantage, weight, penalty)
    if kl_coef:
        assert batch.ref_logp is not None
        now, reference, old = (_live(x, batch.mask) for x in (logp, batch.ref_logp, batch.old_logp))
        divergence = kl_penalty(now, reference, kl, old)
        loss = loss + kl_coef * (batch.loss_weight * divergence).sum()
    if entropy_coef:
        assert entropy is not None
        loss = loss - entropy_coef * (batch.loss_weight * _live(entropy, batch.mask)).sum()
    return loss, w_log


def _live(x: Tensor, keep: Tensor) -> Tensor:
    """x where `keep` is not 0, else 0: a product with 0 would let NaN and inf through, in value and in gradient."""
    return torch.where(keep != 0, x, 0)
