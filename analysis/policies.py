"""Toy policies over K arms, batched over methods and bandits: how a push on the logits reaches them.

A policy starts at the logits it is given and takes `step(push)`, where push is the ascent direction on the logits
times the learning rate, `[M, B, K]` (M methods, B bandits). Tabular logits move by the push itself. With shared
parameters they move by (∂z/∂θ)(∂z/∂θ)ᵀ · push, so a push on one arm leaks into arms with similar features. Features
have length 1: an arm's own push moves its logit as far as in a table (for `mlp`, on average and at the start).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

POLICIES = ("tabular", "linear", "mlp")


class Tabular:
    """One parameter per arm."""

    def __init__(self, logits: Tensor):
        self.z = logits

    def step(self, push: Tensor) -> None:
        self.z += push

    def norm2(self, gradient: Tensor) -> Tensor:
        """Squared length, over the parameters, of the gradient with the given part on the logits: `[M, B]`."""
        return gradient.square().sum(-1)


class Linear(Tabular):
    """z = z₀ + Φθ with fixed features Φ `[B, K, D]`, θ = 0 at the start."""

    def __init__(self, logits: Tensor, features: Tensor):
        super().__init__(logits)
        self.features = features

    def step(self, push):
        theta = torch.einsum("bkd,mbk->mbd", self.features, push)
        self.z += torch.einsum("bkd,mbd->mbk", self.features, theta)

    def norm2(self, gradient):
        return torch.einsum("bkd,mbk->mbd", self.features, gradient).square().sum(-1)


class MLP(Tabular):
    """z = z₀ + f(Φ) − f₀(Φ) with f(φ) = v·tanh(W φ), W `[H, D]` and v `[H]` per bandit; f₀ is f at the start."""

    def __init__(self, logits: Tensor, features: Tensor, hidden: int, randn: Callable[..., Tensor]):
        dim = features.shape[-1]
        gain = math.sqrt(2.0)  # of ∂f/∂v and ∂f/∂W together, about 1 per unit-length feature
        self.features = features
        self.w = randn(hidden, dim).repeat(len(logits), 1, 1, 1) * gain
        self.v = randn(hidden).repeat(len(logits), 1, 1) / math.sqrt(hidden)
        self.scale = 1 / math.sqrt(hidden)
        self._forward()
        self.base = logits - self.f
        self.z = logits

    def _forward(self):
        self.h = torch.tanh(torch.einsum("mbhd,bkd->mbkh", self.w, self.features))
        self.f = torch.einsum("mbkh,mbh->mbk", self.h, self.v)

    def _gradient(self, push):
        v = torch.einsum("mbkh,mbk->mbh", self.h, push) * self.scale
        back = (1 - self.h.square()) * push[..., None] * self.v[..., None, :]
        return v, torch.einsum("mbkh,bkd->mbhd", back, self.features)

    def step(self, push):
        v, w = self._gradient(push)
        self.v += v * self.scale
        self.w += w
        self._forward()
        self.z = self.base + self.f

    def norm2(self, gradient):
        v, w = self._gradient(gradient)
        return v.square().sum(-1) + w.square().sum((-2, -1))


def make(kind: str, logits: Tensor, dim: int, hidden: int, randn: Callable[..., Tensor]):
    """A policy of one of `POLICIES` that starts at `logits` `[M, B, K]`; features are random directions, per bandit.

    randn    normal numbers `[B, *shape]` from a shape, of the dtype and on the device of the logits
    """
    if kind == "tabular":
        return Tabular(logits)
    if kind not in POLICIES:
        raise ValueError(f"policy={kind!r} must be one of {', '.join(POLICIES)}")
    features = randn(logits.shape[2], dim)
    features = features / features.norm(dim=-1, keepdim=True)
    return Linear(logits, features) if kind == "linear" else MLP(logits, features, hidden, randn)
