"""Controls and competitors: what the six methods of the paper are measured against.

All formulas are w_log, the weight on ∇log π; r = π/π_old, Δ = log r, π_old is the policy that sampled.
"""

import math
from dataclasses import dataclass

import torch

from dgpo.methods.base import Method, TrustRegion, param, register, sequence_mean

_SEQUENCE = "seq-mean-token-mean"


def _probability(logp):
    """π; a log-probability above 0 can only be rounding (or a test of extremes) and must not overflow."""
    return logp.clamp(max=0).exp()


@register("pg")
@dataclass(frozen=True)
class PG(Method):
    """Unclipped importance sampling, the unbiased reference: w_log = r, w_prob = 1/π_old."""

    def weight(self, logp, old_logp, advantage, mask=None):
        return (logp - old_logp).exp()


@register("reinforce")
@dataclass(frozen=True)
class Reinforce(Method):
    """The plain score, blind to the ratio: w_log = 1, w_prob = 1/π. Source: Williams 1992."""

    def weight(self, logp, old_logp, advantage, mask=None):
        return torch.ones_like(logp)


@register("cispo_cap")
@dataclass(frozen=True)
class CISPOCap(Method):
    """CISPO as MiniMax uses it, an upper cap alone: w_log = min(r, cap).

    The cap is the bound on r itself, not 1+ε. Source: arXiv 2506.13585; TRL and ScaleRL (cap = 5).
    """

    cap: float = param(5.0, above=0)

    def weight(self, logp, old_logp, advantage, mask=None):
        return (logp - old_logp).clamp(max=math.log(self.cap)).exp()


@register("sapo")
@dataclass(frozen=True)
class SAPO(Method):
    """A smooth gate round r = 1 instead of a boundary: w_log = r · sech²(τ (r−1)/2), τ by the sign of A.

    Source: arXiv 2511.20347 (τ+ = 1, τ− = 1.05, sequence-mean of token-mean).
    """

    tau_pos: float = param(1.0, above=0)
    tau_neg: float = param(1.05, above=0)
    aggregation = _SEQUENCE

    def weight(self, logp, old_logp, advantage, mask=None):
        log_ratio = logp - old_logp
        tau = torch.where(advantage > 0, self.tau_pos, torch.full_like(logp, self.tau_neg))
        x = (tau * torch.expm1(log_ratio) / 2).abs()
        log_sech = math.log(2) - x - torch.log1p(torch.exp(-2 * x))
        return torch.exp(log_ratio + 2 * log_sech)


@register("maspo")
@dataclass(frozen=True)
class MASPO(Method):
    """A Gaussian gate on the side of r = 1 that the advantage pushes to, wider for rare tokens and sure advantages.

        A > 0, r > 1   r · exp(−(r−1)² / 2σ²),  σ = σm (1 + 0.03 A)
        A < 0, r < 1   the same with            σ = σm / (1 − 0.03 A)
        else           r                        σm = clamp(π_old^(−0.3), 1, 10)

    As read from the paper; not checked against code.
    """

    def weight(self, logp, old_logp, advantage, mask=None):
        log_ratio = logp - old_logp
        sigma = torch.exp(-0.3 * old_logp).clamp(1, 10)
        sigma = torch.where(advantage > 0, sigma * (1 + 0.03 * advantage), sigma / (1 + 0.03 * advantage.abs()))
        gated = advantage * log_ratio > 0
        return torch.exp(log_ratio - torch.where(gated, (torch.expm1(log_ratio) / sigma).square() / 2, 0))


@register("dppo")
@dataclass(frozen=True)
class DPPO(Method):
    """A trust region on the probability difference (binary total variation) instead of the ratio.

        A > 0, π − π_old > δ     0
        A < 0, π − π_old < −δ    0
        else                     min(r, cap)

    Source: arXiv 2602.04879 (δ = 0.2, cap = 10).
    """

    delta: float = param(0.2, above=0, below=1)
    cap: float = param(10.0, above=0)

    def weight(self, logp, old_logp, advantage, mask=None):
        change = _probability(logp) - _probability(old_logp)
        outside = torch.where(advantage > 0, change > self.delta, (advantage < 0) & (change < -self.delta))
        return torch.where(outside, 0, (logp - old_logp).clamp(max=math.log(self.cap)).exp())


@register("drpo")
@dataclass(frozen=True)
class DRPO(Method):
    """A quadratic penalty on the probability difference: w_log = r (1 − sign(A) (π − π_old)/ε).

    Negative where a good token has already gained more than ε: it is pulled back. Source: arXiv 2606.09821 (ε = 12.5).
    """

    eps: float = param(12.5, above=0)

    def weight(self, logp, old_logp, advantage, mask=None):
        change = _probability(logp) - _probability(old_logp)
        return (logp - old_logp).exp() * (1 - advantage.sign() * change / self.eps)


@register("gspo")
@dataclass(frozen=True)
class GSPO(TrustRegion):
    """One ratio for the sequence, s = exp(mean Δ) over its live tokens, and the hard clip on it.

        0 on all tokens where s is outside [1−εl, 1+εh] in the direction of A, else s

    Regions are the sequence's. Source: arXiv 2507.18071 (ε 3e-4 and 4e-4, sequence-mean of token-mean).
    """

    eps_low: float = param(3e-4, above=0, below=1)
    eps_high: float = param(4e-4, above=0, below=1)
    aggregation = _SEQUENCE

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
    aggregation = _SEQUENCE

    @property
    def trust_region(self):
        return -math.expm1(-self.eps_low), math.expm1(self.eps_high)

    def weight(self, logp, old_logp, advantage, mask=None):
        log_ratio = logp - old_logp
        region = self.regions(logp, old_logp, advantage, mask)
        clipped = region.select(log_ratio, LN=-self.eps_low, HP=self.eps_high)
        return torch.where(region.LN | region.HP, 0, sequence_mean(clipped, mask).exp().expand_as(logp))
