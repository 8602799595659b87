"""Controls and competitors that gate the ratio: the six methods of the paper are measured against these.

All formulas are w_log, the weight on ∇log π; r = π/π_old, Δ = log r, π_old is the policy that sampled. Methods that
look at probabilities are in `probability`, those that look at whole sequences in `sequences`.
"""

import math
from dataclasses import dataclass

import torch

from dgpo.methods.base import Method, Region, regions, register
from dgpo.methods.parameters import param


@register("pg")
@dataclass(frozen=True)
class PG(Method):
    """Unclipped importance sampling, the unbiased reference: w_log = r, w_prob = 1/π_old."""

    def weight(self, logp, old_logp, advantage, mask=None):
        return (logp - old_logp).exp()


@register("reinforce")
@dataclass(frozen=True)
class Reinforce(Method):
    """The plain score, which ignores the ratio: w_log = 1, w_prob = 1/π. Source: Williams 1992."""

    def weight(self, logp, old_logp, advantage, mask=None):
        return torch.ones_like(logp)


@register("cispo_cap")
@dataclass(frozen=True)
class CISPOCap(Method):
    """CISPO as MiniMax uses it, with only an upper cap: w_log = min(r, cap).

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
    aggregation = "seq-mean-token-mean"

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

    Source: the team's MASPO-RL code, with which it agrees (gradient by autograd, 7e-16).
    """

    def weight(self, logp, old_logp, advantage, mask=None):
        log_ratio = logp - old_logp
        sigma = torch.exp(-0.3 * old_logp).clamp(1, 10)
        sigma = torch.where(advantage > 0, sigma * (1 + 0.03 * advantage), sigma / (1 + 0.03 * advantage.abs()))
        gated = advantage * log_ratio > 0
        return torch.exp(log_ratio - torch.where(gated, (torch.expm1(log_ratio) / sigma).square() / 2, 0))


@register("dispo")
@dataclass(frozen=True)
class DISPO(Method):
    """CISPO with its own bound for each of the four regions: each side of the ratio and sign of A.

        LN     1 − eps_low_neg         HP     1 + eps_high_pos
        LP     1 − eps_low_pos         HN     1 + eps_high_neg
        else   r

    Like CISPO's, its w_prob = w_log/π diverges as a token vanishes. A tight eps_low_neg keeps pushing bad tokens down.
    Source: arXiv 2602.00983 (AISTATS 2026), as read in secondary sources; not checked against code. Its own values
    were not found: with all four at the default of 0.2 it is `cispo`.
    """

    eps_low_pos: float = param(0.2, above=0, below=1)
    eps_high_pos: float = param(0.2, above=0)
    eps_low_neg: float = param(0.2, above=0, below=1)
    eps_high_neg: float = param(0.2, above=0)

    @property
    def trust_region(self):
        return self.eps_low_neg, self.eps_high_pos

    def regions(self, logp, old_logp, advantage, mask=None):
        log_ratio = logp - old_logp
        good = regions(log_ratio, advantage, self.eps_low_pos, self.eps_high_pos)
        bad = regions(log_ratio, advantage, self.eps_low_neg, self.eps_high_neg)
        return Region(bad.LN, good.HP, good.LP, bad.HN, good.positive)

    def weight(self, logp, old_logp, advantage, mask=None):
        return self.regions(logp, old_logp, advantage).select(
            (logp - old_logp).exp(),
            LN=1 - self.eps_low_neg,
            HP=1 + self.eps_high_pos,
            LP=1 - self.eps_low_pos,
            HN=1 + self.eps_high_neg,
        )


@register("icepop")
@dataclass(frozen=True)
class IcePop(Method):
    """A mask on the ratio, whatever the sign of A: w_log = r on [low, high], else 0.

    Its authors mask the ratio of trainer to sampler at rollout time, which here is `importance_correction=mask`. As a
    method, with π_old the sampler, it also masks what the updates moved: a lagging token loses its gradient too.
    Source: arXiv 2510.18855 (0.5 and 5); prime-rl's loss of this name has 0.2 and 5. Not checked against code.
    """

    low: float = param(0.5, above=0, below=1)
    high: float = param(5.0, above=1)

    @property
    def trust_region(self):
        return 1 - self.low, self.high - 1

    def weight(self, logp, old_logp, advantage, mask=None):
        log_ratio = logp - old_logp
        outside = (log_ratio < math.log(self.low)) | (log_ratio > math.log(self.high))
        return torch.where(outside, 0, log_ratio.exp())
