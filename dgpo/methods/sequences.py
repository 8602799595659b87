"""Methods that weigh a token by its whole sequence; they declare `needs = ("sequence",)`.

All formulas are w_log, the weight on ∇log π; Δ = log π/π_old of a token, means and sums are over a sequence's live
tokens.
"""

import math
from dataclasses import dataclass

import torch

from dgpo.methods.base import Method, TrustRegion, register, sequence_mean
from dgpo.methods.clipping import GRPO
from dgpo.methods.parameters import param


@register("gspo")
@dataclass(frozen=True)
class GSPO(TrustRegion):
    """One ratio for the sequence, s = exp(mean Δ) over its live tokens, and the hard clip on it.

        0 on all tokens where s is outside [1−εl, 1+εh] in the direction of A, else s

    Regions are the sequence's. Source: arXiv 2507.18071 (ε 3e-4 and 4e-4, sequence-mean of token-mean).
    """

    eps_low: float = param(3e-4, above=0, below=1)
    eps_high: float = param(4e-4, above=0, below=1)
    aggregation = "seq-mean-token-mean"
    needs = ("sequence",)

    def log_ratio(self, logp, old_logp, mask=None):
        return sequence_mean(logp - old_logp, mask).expand_as(logp)

    def log_weight(self, log_ratio, region):
        return region.select(log_ratio, LN=-math.inf, HP=-math.inf)


@register("gmpo")
@dataclass(frozen=True)
class GMPO(Method):
    """The geometric mean of clipped token ratios weighs the sequence's tokens; clipped tokens drop out.

        s̄ · 1[token not clipped],   s̄ = exp(mean Δ'),   Δ' = min(Δ, eps_high) if A > 0, max(Δ, −eps_low) if A < 0

    eps_low and eps_high are in units of log r. Source: arXiv 2507.20673 (±0.4, sequence-mean of token-mean).
    """

    eps_low: float = param(0.4, above=0, below=10)
    eps_high: float = param(0.4, above=0, below=10)
    aggregation = "seq-mean-token-mean"
    needs = ("sequence",)

    @property
    def trust_region(self):
        return -math.expm1(-self.eps_low), math.expm1(self.eps_high)

    def weight(self, logp, old_logp, advantage, mask=None):
        log_ratio = logp - old_logp
        region = self.regions(logp, old_logp, advantage, mask)
        clipped = region.select(log_ratio, LN=-self.eps_low, HP=self.eps_high)
        return torch.where(region.LN | region.HP, 0, sequence_mean(clipped, mask).exp().expand_as(logp))


@register("luspo")
@dataclass(frozen=True)
class LUSPO(GSPO):
    """GSPO with sequences counted by their length: GSPO's weight, with the sequence-mean of token sums.

    Under loss_aggregation=seq-mean-token-mean it is GSPO. Source: arXiv 2602.05261 (ε 2e-3 and 2.5e-3); checked against
    TRL@f2cd577.
    """

    eps_low: float = param(2e-3, above=0, below=1)
    eps_high: float = param(2.5e-3, above=0, below=1)
    aggregation = "seq-mean-token-sum"


@register("vespo")
@dataclass(frozen=True)
class VESPO(Method):
    """A gamma kernel on the ratio of the whole sequence, W = exp(Σ Δ): w_log = e^λ W^k e^(−λW) on all its tokens.

        A ≥ 0    k = k_pos, λ = lambda_pos
        A < 0    k = k_neg, λ = lambda_neg

    It is 1 at W = 1 and largest at W = k/λ. W is a product: a mean Δ of ±0.01 over 1,000 tokens makes W = e^±10, and
    the sequence's weight vanishes. Regions are those of W. Source: arXiv 2602.10693; checked against TRL@f2cd577, which
    also clamps Δ to ±20 and W to at least 1e-8.
    """

    k_pos: float = param(2.0, above=0)
    lambda_pos: float = param(3.0, above=0)
    k_neg: float = param(3.0, above=0)
    lambda_neg: float = param(2.0, above=0)
    needs = ("sequence",)

    def log_ratio(self, logp, old_logp, mask=None):
        delta = logp - old_logp if mask is None else (logp - old_logp) * mask
        return delta.sum(-1, keepdim=True).expand_as(logp)

    def weight(self, logp, old_logp, advantage, mask=None):
        log_w = self.log_ratio(logp, old_logp, mask)
        k = torch.where(advantage >= 0, self.k_pos, torch.full_like(logp, self.k_neg))
        rate = torch.where(advantage >= 0, self.lambda_pos, torch.full_like(logp, self.lambda_neg))
        return torch.exp(k * log_w - rate * torch.expm1(log_w))


@register("opsm")
@dataclass(frozen=True)
class OPSM(GRPO):
    """The hard clip, without bad sequences that became unlikely: 0 where A < 0 and mean −Δ > delta, else GRPO's.

    delta is in nats a token; it has no published value. The default is slime's; TRL's example has 0.5. At 1e-4 one
    update already drops most bad sequences. Source: DeepSeek-V3.2, arXiv 2512.02556; checked against TRL@f2cd577 and
    slime@624b824.
    """

    delta: float = param(1e-4, above=0)
    needs = ("sequence",)

    def weight(self, logp, old_logp, advantage, mask=None):
        stale = (advantage < 0) & (sequence_mean(old_logp - logp, mask) > self.delta)
        return torch.where(stale, 0, super().weight(logp, old_logp, advantage, mask))
