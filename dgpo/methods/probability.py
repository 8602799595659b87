"""Methods whose trust region depends on the token's probability, not only on its ratio.

All formulas are w_log, the weight on ∇log π; r = π/π_old. KL_B(p, q) is the divergence of two Bernoulli variables: the
sampled token against all others.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dgpo.methods.base import Method, register
from dgpo.methods.parameters import choice, param


def probability(logp: Tensor) -> Tensor:
    """π; a log-probability above 0 is rounding (or a test of extremes) and must not overflow."""
    return logp.clamp(max=0).exp()


def binary_kl(logp: Tensor, logq: Tensor) -> Tensor:
    """KL_B(p, q) = p log p/q + (1−p) log (1−p)/(1−q), elementwise; 1−p and 1−q are at least 1e-8."""
    rest_p, rest_q = (torch.log(-torch.expm1(x.clamp(max=-1e-8))) for x in (logp, logq))
    return probability(logp) * (logp - logq) + rest_p.exp() * (rest_p - rest_q)


def _hard_clip(log_ratio: Tensor, advantage: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """r, or 0 where PPO's clip with each token's bounds `low` and `high` leaves no gradient."""
    ratio = log_ratio.exp()
    return torch.where(torch.where(advantage > 0, ratio > high, (advantage < 0) & (ratio < low)), 0, ratio)


@register("dppo")
@dataclass(frozen=True)
class DPPO(Method):
    """A trust region on the divergence between the sampled token and the rest, instead of the ratio.

        A > 0, π > π_old, D > δ    0              tv   D = |π − π_old|
        A < 0, π < π_old, D > δ    0              kl   D = KL_B(π_old, π), of token and rest
        else                       min(r, cap)

    δ = 0.2 is for tv; with divergence="kl" take 0.05, as SkyRL recommends. Source: arXiv 2602.04879 (cap = 10; verl
    has 20, SkyRL and prime-rl none). Checked against verl's dppo_tv and dppo_kl@1dda039 with this cap, and Stable-RL.
    """

    delta: float = param(0.2, above=0, below=1)
    cap: float = param(10.0, above=0)
    divergence: str = choice("tv", "kl")

    def weight(self, logp, old_logp, advantage, mask=None):
        change = probability(logp) - probability(old_logp)
        size = change.abs() if self.divergence == "tv" else binary_kl(old_logp, logp)
        away = torch.where(advantage > 0, change > 0, (advantage < 0) & (change < 0))
        return torch.where(away & (size > self.delta), 0, (logp - old_logp).clamp(max=math.log(self.cap)).exp())


@register("drpo")
@dataclass(frozen=True)
class DRPO(Method):
    """A quadratic penalty on the probability difference: w_log = r (1 − sign(A) (π − π_old)/ε).

    Negative where a good token has gained more than ε, which pulls it back. Source: arXiv 2606.09821 (ε = 12.5).
    """

    eps: float = param(12.5, above=0)

    def weight(self, logp, old_logp, advantage, mask=None):
        change = probability(logp) - probability(old_logp)
        return (logp - old_logp).exp() * (1 - advantage.sign() * change / self.eps)


@register("ipo")
@dataclass(frozen=True)
class IPO(Method):
    """A mask on the probability difference, whatever the sign of A: w_log = r where |π − π_old| ≤ eps, else 0.

    A rare token may change its ratio many times over; a lagging token outside also loses its gradient. There is no
    cap. Source: prime-rl's default loss (eps 0.1, 0.3 since September 2026); checked against prime-rl@559b447 with
    its squared log-ratio penalty off (kl_tau = 0).
    """

    eps: float = param(0.3, above=0, below=1)

    def weight(self, logp, old_logp, advantage, mask=None):
        change = probability(logp) - probability(old_logp)
        return torch.where(change.abs() > self.eps, 0, (logp - old_logp).exp())


@register("kpop")
@dataclass(frozen=True)
class KPop(Method):
    """A mask on the divergence both ways: w_log = r where KL_B(π, π_old) ≤ phi and KL_B(π_old, π) ≤ phi, else 0.

    In ratios this is wide for a rare token and tight for a sure one. Its authors use the sampler as π_old.
    Source: ringtech.notion.site/kpop (Ring-2.6, phi = 0.1), as prime-rl's pull request 3283 states it; not checked
    against code.
    """

    phi: float = param(0.1, above=0)

    def weight(self, logp, old_logp, advantage, mask=None):
        inside = (binary_kl(logp, old_logp) <= self.phi) & (binary_kl(old_logp, logp) <= self.phi)
        return torch.where(inside, (logp - old_logp).exp(), 0)


@register("ripo")
@dataclass(frozen=True)
class RIPO(Method):
    """The hard clip with ε = √(delta/π_old), wider for rare tokens, and no gradient at all outside [low, high].

        A > 0, r > 1 + √(delta/π_old)     0
        A < 0, r < 1 − √(delta/π_old)     0
        r < low, r > high                 0, whatever the sign of A
        else                              r

    Source: arXiv 2607.10169 (delta = 0.05, low = 0.5, high = 10), as the tests of a fork of verl state it; agrees with
    their values. Its code was not at hand.
    """

    delta: float = param(0.05, above=0)
    low: float = param(0.5, above=0, below=1)
    high: float = param(10.0, above=1)

    def weight(self, logp, old_logp, advantage, mask=None):
        log_ratio = logp - old_logp
        eps = torch.exp((math.log(self.delta) - old_logp) / 2)
        outside = (log_ratio < math.log(self.low)) | (log_ratio > math.log(self.high))
        return torch.where(outside, 0, _hard_clip(log_ratio, advantage, 1 - eps, 1 + eps))


@register("dcpo")
@dataclass(frozen=True)
class DCPO(Method):
    """The hard clip with bounds from |r − 1| · π ≤ ε, which are wider for rare tokens.

        A > 0, r > min((1 + √(1 + 4 eps_high/π_old)) / 2, cap)       0
        A < 0, r < (1 + √max(1 − 4 eps_low/π_old, 0)) / 2            0
        else                                                         r

    Where π_old < 4 eps_low the lower bound is 1/2. Its own advantages (smoothed over steps) and aggregation are not
    here. Source: arXiv 2509.02333 (0.16 and 0.2, cap 10); checked against lime-RL/DCPO core_algos.py@01787b0
    (clip_type=dynamic) without verl's dual clip.
    """

    eps_low: float = param(0.16, above=0, below=1)
    eps_high: float = param(0.2, above=0, below=1)
    cap: float = param(10.0, above=1)

    def weight(self, logp, old_logp, advantage, mask=None):
        low, high = 4 * self.eps_low * torch.exp(-old_logp), 4 * self.eps_high * torch.exp(-old_logp)
        low, high = (1 + (1 - low).clamp(min=0).sqrt()) / 2, ((1 + (1 + high).sqrt()) / 2).clamp(max=self.cap)
        return _hard_clip(logp - old_logp, advantage, low, high)
