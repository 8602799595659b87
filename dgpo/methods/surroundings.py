"""Methods whose gradient is not a function of a token's ratio, probability and advantage alone.

They use `needs` and `penalty`: entropies (`aspo_entropy`, `erc`, `top_entropy`), the whole optimizer batch
(`top_entropy`, `bapo`, `clip_cov`, `kl_cov`), a term that is not a multiple of A (`kl_cov`, `dro`). None has a curve.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dgpo.methods.base import Method, regions, register
from dgpo.methods.clipping import ASPO, GRPO
from dgpo.methods.parameters import param


@register("aspo_entropy")
@dataclass(frozen=True)
class ASPOEntropy(ASPO):
    """ASPO as its authors run it: a wider trust region for the most uncertain tokens of each completion.

        H_old above its `quantile` in the completion    ε = eps_low_uncertain, eps_high_uncertain
        else                                            ε = eps_low, eps_high

    Regions are by the narrow ε. Source: wizard-III/Archer2.0 (0.2, 0.4, quantile 0.8), whose entropies are those of the
    policy that is being updated; checked against its core_algos.py@b08d963, given the same choice of tokens.
    """

    eps_low_uncertain: float = param(0.4, above=0, below=1)
    eps_high_uncertain: float = param(0.4, above=0, below=1)
    quantile: float = param(0.8, above=0, below=1)
    needs = ("sequence", "entropy")

    def weight(self, logp, old_logp, advantage, mask: Any = None, entropy: Any = None):
        log_ratio = logp - old_logp
        narrow = regions(log_ratio, advantage, self.eps_low, self.eps_high)
        wide = regions(log_ratio, advantage, self.eps_low_uncertain, self.eps_high_uncertain)
        limit = torch.where(mask, entropy, math.nan).nanquantile(self.quantile, dim=-1, keepdim=True)
        log_weights = self.log_weight(log_ratio, narrow), self.log_weight(log_ratio, wide)
        return torch.where(entropy <= limit, *log_weights).exp()


@register("erc")
@dataclass(frozen=True)
class ERC(GRPO):
    """The hard clip, without the tokens at which the policy has become surer or less sure.

        ratio_low < H/H_old < ratio_high    GRPO's
        else                                0

    H and H_old are the entropies of the policy now and of the one that sampled, each plus 1e-8 nats. Its authors put it
    on DAPO's clip (εh = 0.28, dual clip 10) and on GPPO. Source: arXiv 2512.05591 (0.95 and 1.05); checked against
    Kwai-Klear/ERC core_algos.py@f1885c5.
    """

    ratio_low: float = param(0.95, above=0, below=1)
    ratio_high: float = param(1.05, above=1)
    needs = ("entropy", "entropy_now")

    def weight(self, logp, old_logp, advantage, mask=None, entropy: Any = None, entropy_now: Any = None):
        ratio = (entropy_now + 1e-8) / (entropy + 1e-8)
        inside = (ratio > self.ratio_low) & (ratio < self.ratio_high)
        log_weight = self.log_weight(logp - old_logp, self.regions(logp, old_logp, advantage, mask))
        return torch.where(inside, log_weight.exp(), 0)


@register("top_entropy")
@dataclass(frozen=True)
class TopEntropy(GRPO):
    """The hard clip, on the most uncertain tokens of the optimizer batch alone.

        H at least its 1 − share quantile over the live tokens    GRPO's
        else                                                      0

    H is the entropy of the policy that is being updated. Its authors put it on DAPO's clip. Source: arXiv 2506.01939
    (share 0.2); checked against TRL 1.16's `top_entropy_quantile`.
    """

    share: float = param(0.2, above=0, below=1)
    needs = ("entropy_now", "batch")

    def weight(self, logp, old_logp, advantage, mask: Any = None, entropy_now: Any = None):
        limit = torch.where(mask, entropy_now, math.nan).nanquantile(1 - self.share)
        log_weight = self.log_weight(logp - old_logp, self.regions(logp, old_logp, advantage, mask))
        return torch.where(entropy_now >= limit, log_weight.exp(), 0)


@register("bapo")
@dataclass(frozen=True)
class BAPO(Method):
    """The hard clip with bounds that move until good tokens weigh as much as bad ones, or both bounds reach their end.

        from (low, high) = (low_start, high_start), first low up to low_end by `step`, then high up to high_end, while
        Σ_(A≥0) A min(r, high)  <  target · Σ_(A<0) |A| max(r, low)              over the optimizer batch

        A > 0, r > high    0
        A < 0, r < low     0, as where r > dual_clip
        else               r

    Source: arXiv 2510.18927; checked against WooooDyy/BAPO recipe/bapo/policy_loss.py@7287044, which searches anew in
    each micro-batch; here the whole optimizer batch has one pair of bounds.
    """

    low_start: float = param(0.6, above=0, below=1)
    low_end: float = param(0.8, above=0, below=1)
    high_start: float = param(1.2, above=1)
    high_end: float = param(2.0, above=1)
    step: float = param(0.05, above=0)
    target: float = param(1.0, above=0)
    dual_clip: float | None = param(3.0, above=1, optional=True)
    needs = ("batch",)

    @property
    def trust_region(self):
        return 1 - self.low_start, self.high_start - 1

    def bounds(self, ratio: Tensor, advantage: Tensor) -> tuple[float, float]:
        """(low, high) for the tokens of an optimizer batch; advantages are 0 on masked ones."""

        def short(low, high):
            good = (advantage.clamp(min=0) * ratio.clamp(max=high)).sum()
            bad = (-advantage.clamp(max=0) * ratio.clamp(min=low)).sum()
            return bad > 0 and good < self.target * (bad + 1e-8)

        low, high = self.low_start, self.high_start
        while low < self.low_end and short(low, high):
            low = min(low + self.step, self.low_end)
        while high < self.high_end and short(low, high):
            high = min(high + self.step, self.high_end)
        return low, high

    def weight(self, logp, old_logp, advantage, mask=None):
        ratio = (logp - old_logp).exp()
        low, high = self.bounds(ratio, advantage)
        far = ratio < low if self.dual_clip is None else (ratio < low) | (ratio > self.dual_clip)
        return torch.where(torch.where(advantage > 0, ratio > high, (advantage < 0) & far), 0, ratio)


def _covariance(logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """(A − mean A)(log π − mean log π) of every token, with means over the live ones."""
    count = mask.sum().clamp(min=1)
    return (advantage - advantage.sum() / count) * (logp - logp.sum() / count)


@register("clip_cov")
@dataclass(frozen=True)
class ClipCov(GRPO):
    """The hard clip, without some tokens whose confidence and advantage go together.

        cov = (A − mean A)(log π − mean log π)       means over the live tokens of the optimizer batch
        of the unclipped tokens with cov_low < cov < cov_high, as many as `share` of all tokens, at least one    0
        else                                                                                                     GRPO's

    Which ones is a random choice that the number of such tokens fixes, so a batch always has the same weights. Its
    authors set ε = 1. Source: arXiv 2505.22617 (share 2e-4, 1 and 5); checked against verl 0.9.1.
    """

    share: float = param(2e-4, above=0, below=1)
    cov_low: float = 1.0
    cov_high: float = 5.0
    needs = ("batch",)

    def __post_init__(self):
        super().__post_init__()
        if self.cov_low >= self.cov_high:
            raise ValueError(f"method 'clip_cov': cov_low={self.cov_low!r} must be below cov_high={self.cov_high!r}")

    def weight(self, logp, old_logp, advantage, mask: Any = None):
        covariance, region = _covariance(logp, advantage, mask), self.regions(logp, old_logp, advantage, mask)
        between = (covariance > self.cov_low) & (covariance < self.cov_high)
        candidates = (mask & between & ~region.LN & ~region.HP).flatten().nonzero()[:, 0]
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(len(candidates)))
        dropped = candidates[order[: max(1, int(mask.sum() * self.share))].to(candidates.device)]
        w_log = super().weight(logp, old_logp, advantage, mask)
        return w_log.flatten().index_fill(0, dropped, 0).view_as(w_log)


@register("kl_cov")
@dataclass(frozen=True)
class KLCov(Method):
    """Unclipped, with a penalty of `coef` · |Δ| on the tokens where confidence and advantage go together most.

        w_log = r;   the share of tokens with the largest (A − mean A)(log π − mean log π): penalty = coef · sign Δ

    Means and shares are over the live tokens of the optimizer batch; at least one token is penalised. Source:
    arXiv 2505.22617; checked against verl@1dda039 (share 2e-4, coef 1).
    """

    share: float = param(2e-4, above=0, below=1)
    coef: float = param(1.0, above=0)
    needs = ("batch",)

    def weight(self, logp, old_logp, advantage, mask=None):
        return (logp - old_logp).exp()

    def penalty(self, logp, old_logp, advantage, mask: Any = None):
        covariance = torch.where(mask, _covariance(logp, advantage, mask), -math.inf).flatten()
        largest = covariance.topk(max(1, int(mask.sum() * self.share))).indices
        chosen = torch.zeros_like(logp).flatten().index_fill(0, largest, 1).view_as(logp)
        return self.coef * chosen * (logp - old_logp).sign()


@register("dro")
@dataclass(frozen=True)
class DRO(Method):
    """The plain score with a pull towards π_old: w_log = 1, penalty = beta · Δ.

    The pull also acts where A = 0, and grows without bound. Source: arXiv 2405.19107, as verl@1dda039 has it (checked),
    where beta has no default; 0.1 is ours.
    """

    beta: float = param(0.1, above=0)

    def weight(self, logp, old_logp, advantage, mask=None):
        return torch.ones_like(logp)

    def penalty(self, logp, old_logp, advantage, mask=None):
        return self.beta * (logp - old_logp)
