"""A policy of short sequences with shared parameters, learned by any method, its held-out pass@k computed exactly.

    π(a | x, t, p) = softmax(φ(x, t, p) · Θ)      x prompt, t position, p the token before;  φ random, of length 1

A teacher of the same form has one right token everywhere. A prompt then has one right answer y, of probability
q(x) = Π π(y_t | x, t, y_t−1), and pass@k = mean over held-out x of 1 − (1 − q)^k, without sampling noise.
Each seed is its own world (features, teacher, start) with one generator, so all contestants see the same draws.
Shapes: C contestants, S seeds, P prompts × G answers a step of T tokens, V tokens, D features.
"""

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pandas as pd
import torch

from analysis.landscape import key_of, resolve
from dgpo.objective import group_advantages

_AT_LEAST = {"length": 1, "vocabulary": 2, "prompts": 1, "group": 2, "epochs": 1, "minibatches": 1, "behind": 0}


@dataclass(frozen=True)
class World:
    """The task and how it is learned.

    length, vocabulary, features   T, V, D
    held_out             prompts to train on, and as many others to test on
    prompts, group       P and G of a step; epochs, minibatches: the updates on its samples, by Adam
    behind               steps by which the sampler lags; 0 samples from the newest policy
    reward               "answer": 1 for the right answer, else 0; "share": the share of right tokens
    teacher, start, noise          scales of the teacher, of its part in the start, and of the start's noise
    """

    length: int = 4
    vocabulary: int = 12
    features: int = 48
    held_out: int = 128
    prompts: int = 32
    group: int = 8
    epochs: int = 4
    minibatches: int = 4
    behind: int = 0
    teacher: float = 2.5
    start: float = 0.55
    noise: float = 1.8
    reward: str = "answer"

    def __post_init__(self):
        if self.reward not in ("answer", "share"):
            raise ValueError(f"reward={self.reward!r} must be 'answer' or 'share'")
        for f in fields(self):
            if f.type in (int, float) and (value := getattr(self, f.name)) < _AT_LEAST.get(f.name, 0):
                raise ValueError(f"{f.name}={value!r} must be at least {_AT_LEAST.get(f.name, 0)}")
        if self.prompts > self.held_out:
            raise ValueError(f"prompts={self.prompts} must be at most held_out={self.held_out}: none is drawn twice")
        if self.prompts * self.group % self.minibatches:
            raise ValueError(f"minibatches={self.minibatches} must divide prompts·group={self.prompts * self.group}")


@torch.no_grad()
def run(contestants, world: World | None = None, *, seeds: Sequence[int], steps=60, every=20, k=32, block=4):
    """Train every contestant (method, learning rate) on every seed; a tidy frame of the policies' scores.

    Columns: method, name, lr, seed, step, pass@1, pass@k, entropy (nats a token, along the right answers). `block`
    seeds run at a time. Raises ValueError for a step count below 1, and if a method's weights turn NaN.
    """
    world = world or World()
    if steps < 1 or every < 1:
        raise ValueError(f"steps={steps} and every={every} must be at least 1")
    contestants = [(resolve(method), float(lr)) for method, lr in contestants]
    parts = [list(seeds)[i : i + block] for i in range(0, len(seeds), block)]
    return pd.concat([_learn(contestants, world, part, steps, every, k) for part in parts], ignore_index=True)


def grid(methods, rates) -> list:
    """Every method at every rate, as contestants of `run`."""
    return list(itertools.product([resolve(m) for m in methods], rates))


class _Prompts:
    """Features and right tokens of every (prompt, position, token before) of S seeds, and the draws of each seed."""

    def __init__(self, world, seeds):
        self.world, self.generators = world, [torch.Generator().manual_seed(int(s)) for s in seeds]
        w, shape = world, (2 * world.held_out, world.length, world.vocabulary + 1, world.features)
        x, t, p = (
            self.normal(shape[0], 1, 1, shape[3]),
            self.normal(1, shape[1], 1, shape[3]),
            self.normal(1, *shape[1:]),
        )
        phi = torch.nn.functional.normalize(x + t + p, dim=-1).flatten(1, 3)
        teacher = w.teacher * self.normal(w.features, w.vocabulary)
        self.start = w.start * teacher + w.noise * self.normal(w.features, w.vocabulary)
        self.right = (phi @ teacher).argmax(-1).flatten()
        self.phi, self.rows = phi.flatten(0, 1), phi.shape[1]

    def draw(self, make):
        return torch.stack([make(g) for g in self.generators])

    def normal(self, *shape):
        return self.draw(lambda g: torch.randn(*shape, generator=g))

    def row(self, x, t, before):
        """The row of `phi` and `right` of prompts `[..., S, N]`."""
        seed = torch.arange(len(self.generators))[:, None] * self.rows
        return seed + (x * self.world.length + t) * (self.world.vocabulary + 1) + before

    def answers(self):
        """Rows `[S, X, T]` and tokens of the right answers to the held-out prompts."""
        w = self.world
        x = torch.arange(w.held_out, 2 * w.held_out).expand(len(self.generators), -1)
        rows, before = [], torch.full_like(x, w.vocabulary)
        for t in range(w.length):
            rows.append(self.row(x, t, before))
            before = self.right[rows[-1]]
        rows = torch.stack(rows, -1)
        return rows, self.right[rows]

    def step(self):
        """The draws of one step: prompts `[S, P·G]`, uniforms `[S, P·G, T]`, an order per epoch `[epochs, S, P·G]`."""
        w, n = self.world, self.world.prompts * self.world.group
        x = self.draw(lambda g: torch.randperm(w.held_out, generator=g)[: w.prompts]).repeat_interleave(w.group, -1)
        u = self.draw(lambda g: torch.rand(n, w.length, generator=g))
        return x, u, [self.draw(lambda g: torch.randperm(n, generator=g)) for _ in range(w.epochs)]


def _learn(contestants, world, seeds, steps, every, k):
    prompts, rows = _Prompts(world, seeds), []
    theta = prompts.start.repeat(len(contestants), 1, 1, 1)
    rate = torch.tensor([lr for _, lr in contestants]).view(-1, 1, 1, 1)
    adam, sampler = _Adam(theta), deque([theta.clone()], maxlen=world.behind + 1)
    for step in range(steps + 1):
        if step % every == 0 or step == steps:
            if not theta.isfinite().all():
                bad = contestants[int((~theta.isfinite()).flatten(1).any(1).nonzero()[0])]
                raise ValueError(f"{bad[0]} at lr {bad[1]:g}: its weights made the policy NaN by step {step}")
            rows += _rows(contestants, seeds, step, _evaluate(theta, prompts, k), k)
        if step < steps:
            x, u, orders = prompts.step()
            phi, token, old, advantage = _sample(sampler[0], prompts, x, u)
            for part in (part for order in orders for part in order.chunk(world.minibatches, -1)):
                theta -= rate * adam(
                    _gradient(theta, contestants, *(_take(v, part) for v in (phi, token, old, advantage)))
                )
            sampler.append(theta.clone())
    return pd.DataFrame(rows)


def _take(value, part):
    """Sequences `part` `[S, n]` of `[C, S, N, T, ...]`."""
    return value[:, torch.arange(len(part))[:, None], part]


def _sample(theta, prompts, x, u):
    """Answers to x: features `[C, S, N, T, D]`, tokens, log-probabilities and advantages `[C, S, N, T]`."""
    world, c = prompts.world, len(theta)
    x = x.expand(c, *x.shape)
    before, right, kept = torch.full_like(x, world.vocabulary), torch.zeros_like(x), []
    for t in range(world.length):
        row = prompts.row(x, t, before)
        phi = prompts.phi[row]
        logp = (phi @ theta).log_softmax(-1)
        cdf = logp.exp().cumsum(-1)
        before = torch.searchsorted(cdf, (u[..., t] * cdf[..., -1])[..., None], right=True)[..., 0]
        before = before.clamp_(max=world.vocabulary - 1)
        right += before == prompts.right[row]
        kept.append((phi, before, logp.gather(-1, before[..., None])[..., 0]))
    reward = right / world.length if world.reward == "share" else (right == world.length).float()
    advantage = group_advantages(reward.view(-1, world.group)).view(x.shape)
    phi, token, old = (torch.stack(values, 3) for values in zip(*kept, strict=True))
    return phi, token, old, advantage[..., None].expand_as(old)


def _gradient(theta, contestants, phi, token, old, advantage):
    """Of the loss −mean A · w_log · log π over the tokens of each policy, on Θ `[C, S, D, V]`."""
    flat = phi.flatten(2, 3)
    logp = (flat @ theta).log_softmax(-1)
    at = token.flatten(2)[..., None]
    w = _weights(contestants, logp.gather(-1, at).view(old.shape), old, advantage)
    push = (w * advantage).flatten(2)[..., None] / flat.shape[2]
    return flat.mT @ logp.exp_().mul_(push).scatter_add_(-1, at, -push)


def _weights(contestants, logp, old, advantage):
    """w_log of all contestants, `[C, S, n, T]`; consecutive contestants of one method take one call."""
    found, i = [], 0
    for method, same in itertools.groupby(contestants, key=lambda pair: pair[0]):
        part = slice(i, i := i + len(list(same)))
        columns = [v[part].reshape(-1, v.shape[-1]) for v in (logp, old, advantage)]
        found.append(method.weight(*columns, torch.ones_like(columns[0], dtype=torch.bool)).view(logp[part].shape))
    return torch.cat(found)


class _Adam:
    def __init__(self, like):
        self.mean, self.square, self.count = torch.zeros_like(like), torch.zeros_like(like), 0

    def __call__(self, gradient):
        self.count += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.lerp_(gradient**2, 0.001)
        size = (self.square / (1 - 0.999**self.count)).sqrt_().add_(1e-8)
        return self.mean / (1 - 0.9**self.count) / size


def _evaluate(theta, prompts, k):
    """pass@1, pass@k and entropy, `[C, S]` each, over all held-out prompts, from the right answer's probability."""
    rows, token = prompts.answers()
    logp = (prompts.phi[rows].flatten(1, 2) @ theta).log_softmax(-1)
    q = (
        logp.gather(-1, token.flatten(1).expand(len(theta), -1, -1)[..., None])
        .view(-1, *rows.shape)
        .double()
        .sum(-1)
        .exp()
    )
    entropy = -(logp.exp() * logp).sum(-1).mean(-1)
    return q.mean(-1), (1 - (1 - q) ** k).mean(-1), entropy


def _rows(contestants, seeds, step, found, k):
    names = ("pass@1", f"pass@{k}", "entropy")
    values = np.stack([v.numpy() for v in found], -1)
    for (method, lr), of_method in zip(contestants, values, strict=True):
        label = {"method": key_of(method), "name": str(method), "lr": lr, "step": step}
        for seed, row in zip(seeds, of_method, strict=True):
            yield label | {"seed": seed} | dict(zip(names, row.tolist(), strict=True))
