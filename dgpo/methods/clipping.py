"""The six methods of the paper: hard clip, soft clips on ∇log π, and DGPO's decay on ∇π.

All formulas are w_log, the weight on ∇log π; r = π/π_old. Regions: `Region`. Source of each: its docstring.
"""

import math
from dataclasses import dataclass

import torch

from dgpo.methods.base import TrustRegion, register
from dgpo.methods.parameters import param


def _dual(log_ratio, dual_clip):
    """log r, and −inf (weight 0) where r > c: PPO's dual clip, for bad tokens that became far more likely."""
    return log_ratio if dual_clip is None else torch.where(log_ratio > math.log(dual_clip), -math.inf, log_ratio)


@register("grpo")
@dataclass(frozen=True)
class GRPO(TrustRegion):
    """The hard clip of PPO: a token that has left the trust region in the wanted direction has no gradient.

        LN, HP   0
        HN       r, or 0 where r > c (dual clip; off unless asked for)
        else     r

    Source: arXiv 2402.03300 with PPO's clip (arXiv 1707.06347); dual clip as in verl (c = 3) and DAPO (c = 10, with
    εh = 0.28).
    """

    dual_clip: float | None = param(None, above=1, optional=True)

    def log_weight(self, log_ratio, region):
        return region.select(log_ratio, LN=-math.inf, HP=-math.inf, HN=_dual(log_ratio, self.dual_clip))


@register("cispo")
@dataclass(frozen=True)
class CISPO(TrustRegion):
    """The importance weight is clipped but kept: every token keeps a gradient on log π.

        r < 1−εl   1−εl
        r > 1+εh   1+εh
        else       r

    w_prob = w_log/π, so it diverges as 1/π when a token vanishes. Two-sided, as verl and arXiv 2603.14389 use it;
    MiniMax's one-sided practice is `cispo_cap`. Source: arXiv 2506.13585.
    """

    def log_weight(self, log_ratio, region):
        return log_ratio.clamp(self.log_low, self.log_high)


@register("gppo")
@dataclass(frozen=True)
class GPPO(TrustRegion):
    """The clipped tokens of GRPO keep the gradient that they had at the boundary; lagging tokens keep r.

        LN     1−εl
        HP     1+εh
        HN     r, or 0 where r > c
        else   r

    Source: arXiv 2508.07629, Kwai-Klear/KlearReasoner (εh = 0.28, c = 10).
    """

    eps_high: float = param(0.28, above=0, below=1)
    dual_clip: float | None = param(10.0, above=1, optional=True)

    def log_weight(self, log_ratio, region):
        return region.select(log_ratio, LN=self.log_low, HP=self.log_high, HN=_dual(log_ratio, self.dual_clip))


@register("ce_gppo")
@dataclass(frozen=True)
class CEGPPO(TrustRegion):
    """GPPO with the two kept gradients scaled, to steer the entropy.

        LN     β_low (1−εl)
        HP     β_high (1+εh)
        HN     r, or 0 where r > c
        else   r

    Source: arXiv 2509.20712, Kwai-Klear/CE-GPPO (β 0.75 and 1; its 1.5B script: 0.5 and 1; c = 10).
    """

    beta_low: float = param(0.75, above=0)
    beta_high: float = param(1.0, above=0)
    dual_clip: float | None = param(10.0, above=1, optional=True)

    def log_weight(self, log_ratio, region):
        return region.select(
            log_ratio,
            LN=math.log(self.beta_low) + self.log_low,
            HP=math.log(self.beta_high) + self.log_high,
            HN=_dual(log_ratio, self.dual_clip),
        )


@register("aspo")
@dataclass(frozen=True)
class ASPO(TrustRegion):
    """The hard clip, with the ratio of good tokens inverted: rare good tokens are pushed most.

        LN, HP          0
        A > 0, else     min(1/r, c)
        A ≤ 0, else     min(r, c)

    The paper of DGPO draws it with CISPO's curve on LP and HN; this follows the code. 1/r is a constant here: left
    differentiable, it would reverse the gradient. Source: arXiv 2510.06062, wizard-III/Archer2.0 (c = 3).
    """

    dual_clip: float = param(3.0, above=1)

    def log_weight(self, log_ratio, region):
        turned = torch.where(region.positive, -log_ratio, log_ratio).clamp(max=math.log(self.dual_clip))
        return region.select(turned, LN=-math.inf, HP=-math.inf)


@register("dgpo")
@dataclass(frozen=True)
class DGPO(TrustRegion):
    """Bilateral decoupled decay of the probability-gradient weight.

        LN     r^(n+1) / (1−εl)^n            w_prob → 0 as π^n
        HP     (1+εh)^(1/m) · r^(1−1/m)      w_prob falls as π^(−1/m)
        else   r

    Continuous at both boundaries. n and m are any positive numbers, `inf` included: n = inf is the hard clip on LN,
    m = 1 is GPPO on HP, m = inf is unclipped on HP. The authors suggest (n, m) = (2, 2) for 1.5B and (1, 2) from 7B.
    Source: arXiv 2603.14389; agrees with FlyTune/DGPO-RL core_algos.py@cc225d4.
    """

    n: float = param(1.0, above=0, infinite=True)
    m: float = param(2.0, above=0, infinite=True)

    def log_weight(self, log_ratio, region):
        return region.select(
            log_ratio,
            LN=log_ratio + self.n * (log_ratio - self.log_low),
            HP=log_ratio - (log_ratio - self.log_high) / self.m,
        )
