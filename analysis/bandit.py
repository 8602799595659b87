"""Softmax bandits under clipped off-policy updates: methods × settings × seeds in one batched tensor program.

    per step:  a ~ π_old, groups of rewards → advantages;  epochs × minibatches ascents on  mean A · w_log · log π(a)

which is the trainer's loop with one-token answers. A seed has the same problems and random numbers under every method
and setting, so differences are paired over seeds, and no result depends on what else runs in the call. Shapes: M
methods, B = settings × seeds, K arms, N = groups · group samples a step; logits `[M, B, K]`, float64 by default.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch

from analysis import policies
from analysis.bandit_problem import Advantages, Draws, Problem, Setting, as_list, by_shape, variants
from analysis.landscape import key_of, resolve_all, trust_region_of
from dgpo.methods import REGIONS, regions

__all__ = ["METRICS", "Runs", "Setting", "run", "variants"]

METRICS = (
    *("regret", "cumulative_regret", "entropy", "p_best", "support"),
    *("ratio_spread", "w_max", "gradient", "gradient_variance"),
    *(f"share_{r}" for r in REGIONS),
)


@dataclass(frozen=True)
class Runs:
    """The records of a call: `data[metric]` is `[methods, settings, seeds, points]`, at the steps `step`.

    regret             best mean − expected mean reward of the policy, before the step's updates
    cumulative_regret  its sum over all steps so far, this one included
    entropy, p_best, support   of the policy: in nats; mass on optimal arms; arms above `Setting.support`
    ratio_spread       standard deviation of log r over the step's updates; w_max: the largest |w_log|
    gradient           mean length of a minibatch gradient on the parameters; gradient_variance: the mean squared
                       distance, on the logits, of the minibatch gradients from their mean
    share_LN .. share_IN       shares of the tokens by region, over the step's updates
    """

    methods: tuple[str, ...]
    names: tuple[str, ...]
    settings: tuple[str, ...]
    step: np.ndarray
    data: dict[str, np.ndarray] = field(repr=False)

    def pick(self, *settings: str, methods: Sequence[str] = ()) -> "Runs":
        """The runs of some settings only, and of some methods; ValueError for an unknown setting or method."""
        if unknown := [s for s in settings if s not in self.settings]:
            raise ValueError(f"no setting {unknown[0]!r}; there are: {', '.join(self.settings)}")
        if unknown := [m for m in methods if m not in self.methods]:
            raise ValueError(f"no method {unknown[0]!r}; there are: {', '.join(dict.fromkeys(self.methods))}")
        where = [self.settings.index(s) for s in settings]
        rows = [i for i, m in enumerate(self.methods) if m in methods or not methods]
        of = {"methods": tuple(self.methods[i] for i in rows), "names": tuple(self.names[i] for i in rows)}
        return replace(self, **of, settings=settings, data={k: v[rows][:, where] for k, v in self.data.items()})

    def frame(self) -> pd.DataFrame:
        """Tidy: method, name, setting, seed, step and one column per metric."""
        shape = self.data["regret"].shape
        m, s, r, t = (i.ravel() for i in np.indices(shape))
        index = {
            "method": np.array(self.methods)[m],
            "name": np.array(self.names)[m],
            "setting": np.array(self.settings)[s],
            "seed": r,
            "step": self.step[t],
        }
        return pd.DataFrame(index | {k: v.ravel() for k, v in self.data.items()})

    def scores(self, metric: str = "cumulative_regret", method: int = 0, last: int = 1) -> np.ndarray:
        """`[seeds, settings]` of one method: the mean of the last recorded points. The contract of `analysis.stats`."""
        if metric not in self.data:
            raise ValueError(f"unknown metric {metric!r}; recorded: {', '.join(self.data)}")
        return self.data[metric][method, :, :, -last:].mean(-1).T


def run(
    methods,
    settings=None,
    *,
    seeds: int = 20,
    steps: int = 300,
    points: int = 50,
    seed: int = 0,
    device: str = "cpu",
    dtype=torch.float64,
    block: int = 2048,
) -> Runs:
    """Run every method on every setting with `seeds` seeds; record at `points` evenly spaced steps.

    Settings that differ only in numbers run as one tensor program; those that differ in shape (arms, samples, policy)
    run one after the other. `block` bandits run at a time, which keeps the logits in the cache: about 5·M·block·K
    numbers of memory besides the records. Raises ValueError for counts below 1, and for a method whose weights turn
    NaN.
    """
    chosen, settings = resolve_all(methods), as_list(settings)
    for key, value in {"seeds": seeds, "steps": steps, "points": points, "block": block}.items():
        if value < 1:
            raise ValueError(f"{key}={value!r} must be at least 1")
    record = np.unique(np.linspace(0, steps - 1, min(points, steps)).round().astype(int))
    data = {k: np.full((len(chosen), len(settings), seeds, len(record)), np.nan) for k in METRICS}
    for same in by_shape(settings):
        rows = [(s, r) for s in same for r in range(seeds)]
        for i in range(0, len(rows), block):
            part = rows[i : i + block]
            draws = Draws([r for _, r in part], seed, device, dtype)
            found = _simulate(chosen, [settings[s] for s, _ in part], draws, steps, record, device, dtype)
            where = tuple(np.array(part).T)
            for k, values in found.items():
                data[k][:, where[0], where[1]] = values
    labels = tuple(s.name for s in settings)
    return Runs(tuple(map(key_of, chosen)), tuple(map(str, chosen)), labels, record + 1, data)


@torch.no_grad()
def _simulate(methods, settings, draws, steps, record, device, dtype):
    problem, s, m = Problem(settings, draws, device, dtype), settings[0], len(methods)
    bandits, samples = len(settings), s.groups * s.group
    policy = policies.make(s.policy, problem.logits.repeat(m, 1, 1), s.features, s.hidden, draws.randn)
    advantages, weights = Advantages(s, policy.z), _Weights(methods, bandits, samples // s.minibatches, policy.z)
    wanted, cumulative, kept = set(record.tolist()), torch.zeros(m, bandits, device=device, dtype=dtype), []
    e, cdf, rate = torch.empty_like(policy.z), torch.empty_like(policy.z), problem.lr * s.minibatches / samples

    def exponentials():  # in place: fresh memory would cost as much as the exponentials
        torch.sub(policy.z, policy.z.amax(-1, keepdim=True), out=e).exp_()
        return e.sum(-1, keepdim=True)

    for step, (u, noise, flip) in enumerate(draws.steps(steps, samples, problem.graded)):
        good, mean, paid = problem.at(step)
        total = exponentials()
        regret = problem.best[:, 0] - torch.einsum("mbk,bk->mb", e, mean) / total[..., 0]
        cumulative += regret
        log = _Log(policy.z, good, problem.support, regret, cumulative) if step in wanted else None

        torch.cumsum(e, -1, out=cdf)
        arm = torch.searchsorted(cdf, u * cdf[..., -1:], right=True).clamp_(max=s.arms - 1)  # never one with e = 0
        advantage = advantages(problem.pay(paid.expand(m, -1, -1).gather(-1, arm), noise, flip))
        old = (e.gather(-1, arm) / total).log_()
        cut = [x.view(m, bandits, s.minibatches, -1).movedim(2, 0).contiguous() for x in (arm, advantage, old)]
        for epoch in range(s.epochs):
            for i, (a, adv, before) in enumerate(zip(*cut, strict=True)):
                logp = before
                if epoch or i:
                    total = exponentials()
                    logp = (e.gather(-1, a) / total).clamp_(min=1e-300).log_()
                w = weights(logp, before, adv)
                push = w * adv * rate
                spread = push.sum(-1, keepdim=True) / total
                if log or s.policy != "tabular":
                    direction = (e * -spread).scatter_add_(-1, a, push)
                    if log:
                        log.update(methods, logp - before, adv, w, direction / problem.lr, policy)
                    policy.step(direction)
                else:
                    policy.z.addcmul_(e, spread, value=-1).scatter_add_(-1, a, push)
        if log:
            kept.append(log.close())
            if not torch.isfinite(policy.z).all():
                bad = int((~torch.isfinite(policy.z)).flatten(1).any(1).nonzero()[0])
                raise ValueError(f"{methods[bad]}: its weights made the logits NaN or infinite by step {step + 1}")
    return {k: torch.stack([row[k] for row in kept], -1).cpu().numpy() for k in METRICS}


class _Weights:
    """w_log `[M, B, n]` of all methods, each sample a sequence of one token.

    `Method.weight` checks and masks its inputs, which would cost more than the weight here: only the first minibatch
    goes through that guard.
    """

    def __init__(self, methods, bandits, size, like):
        self.methods, self.guarded = methods, True
        self.bare = [functools.partial(getattr(type(m).weight, "__wrapped__", type(m).weight), m) for m in methods]
        self.mask = torch.ones(bandits * size, 1, dtype=torch.bool, device=like.device)
        self.shape = len(methods), bandits * size, 1

    def __call__(self, logp, old_logp, advantage):
        calls = [m.weight for m in self.methods] if self.guarded else self.bare
        self.guarded = False
        columns = zip(*(x.view(self.shape) for x in (logp, old_logp, advantage)), strict=True)
        return torch.stack([call(*c, self.mask) for call, c in zip(calls, columns, strict=True)]).view(logp.shape)


class _Log:
    """The metrics of one recorded step, `[M, B]` each."""

    def __init__(self, z, good, support, regret, cumulative):
        log_p = z.log_softmax(-1)
        p = log_p.exp()
        self.row = {
            "regret": regret,
            "cumulative_regret": cumulative.clone(),
            "entropy": -(p * log_p.clamp(min=-1e4)).sum(-1),
            "p_best": (p * good).sum(-1),
            "support": (p > support).sum(-1).to(p.dtype),
        }
        self.log_r: list[torch.Tensor] = []
        self.w_max, self.norm, self.square, self.sum, self.shares = torch.zeros(5, 1).unbind()
        self.count = 0

    def update(self, methods, log_r, advantage, w, gradient, policy):
        code = torch.stack(
            [regions(x, a, *trust_region_of(m)).code for m, x, a in zip(methods, log_r, advantage, strict=True)]
        )
        self.shares = self.shares + torch.stack([(code == i).sum(-1) for i in range(len(REGIONS))])
        self.log_r.append(log_r)
        self.w_max = torch.maximum(w.abs().amax(-1), torch.as_tensor(self.w_max).to(w))
        self.norm = self.norm + policy.norm2(gradient).sqrt()
        self.square, self.sum = self.square + gradient.square().sum(-1), self.sum + gradient
        self.count += 1

    def close(self):
        log_r, mean = torch.cat(self.log_r, -1), self.sum / self.count
        return self.row | {
            "ratio_spread": log_r.std(-1, correction=0),
            "w_max": self.w_max,
            "gradient": self.norm / self.count,
            "gradient_variance": self.square / self.count - mean.square().sum(-1),
            **{f"share_{r}": self.shares[i] / log_r.shape[-1] for i, r in enumerate(REGIONS)},
        }
