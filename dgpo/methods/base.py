"""What a method is: one stop-gradient weight on every sampled token.

On a token with ratio r = π/π_old and advantage A, every method here is defined by the coefficient on its score:

    ∇ loss_t = − A · w_log · ∇ log π  =  − A · w_prob · ∇ π ,        w_log = π · w_prob

`w_log` is what `Method.weight` returns; the trainer weighs its tokens with it and the notebooks draw it.
Unclipped importance sampling (`pg`) has w_log = r and w_prob = 1/π_old. The share of it that a method keeps
is its gate, w_log / r = π_old · w_prob.

Shapes: `[B, T]`, B sequences of T completion tokens. A method that looks at whole sequences (`needs`)
reduces over the last axis, so independent points of a curve are drawn as `[N, 1]`.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from dgpo.errors import Explained
from dgpo.methods.parameters import check, param
from dgpo.plain import locate, plain

REGIONS = ("LN", "HP", "LP", "HN", "IN")
DEFAULT_EPS = 0.2


class MethodError(Explained, ValueError):
    """A method's weight is not one number for each token."""


@dataclass(frozen=True)
class Region:
    """The five regions of the (ratio, advantage) plane as boolean masks; a ratio on the boundary is inside.

    LN   r < 1−εl, A < 0     the left boundary: a bad token that is already less likely
    HP   r > 1+εh, A > 0     the right boundary: a good token that is already more likely
    LP   r < 1−εl, A > 0     a lagging token: good, yet less likely
    HN   r > 1+εh, A < 0     a lagging token: bad, yet more likely
    IN   the rest

    `positive` is A > 0. Source: METHODS of arXiv 2603.14389, figure 2.
    """

    LN: Tensor
    HP: Tensor
    LP: Tensor
    HN: Tensor
    positive: Tensor

    def select(self, otherwise: Tensor, LN=None, HP=None, LP=None, HN=None) -> Tensor:
        """`otherwise`, with the given tensor or number on each named region."""
        out = otherwise
        for value, where in ((LN, self.LN), (HP, self.HP), (LP, self.LP), (HN, self.HN)):
            if value is not None:
                out = torch.where(where, value, out)
        return out

    @property
    def code(self) -> Tensor:
        """Index into `REGIONS` of every token, int64."""
        inside = torch.full_like(self.positive, REGIONS.index("IN"), dtype=torch.int64)
        return self.select(inside, LN=0, HP=1, LP=2, HN=3)


def regions(
    log_ratio: Tensor, advantage: Tensor, eps_low: float = DEFAULT_EPS, eps_high: float = DEFAULT_EPS
) -> Region:
    """Sort tokens by log r and A (same shape) into the five regions round the trust region [1−εl, 1+εh]."""
    below, above = log_ratio < math.log(1 - eps_low), log_ratio > math.log(1 + eps_high)
    negative, positive = advantage < 0, advantage > 0
    return Region(below & negative, above & positive, below & positive, above & negative, positive)


NEEDS = ("sequence", "entropy", "entropy_now", "batch")
_WHOSE = {"entropy": "the policy that sampled", "entropy_now": "the policy that is being updated"}


def _guarded(function):
    """`weight` or `penalty` as callers see it: without gradients, with inputs of one shape, cleaned by the mask."""

    @functools.wraps(function)
    @torch.no_grad()
    def wrapped(self, logp, old_logp, advantage, mask=None, entropy=None, entropy_now=None):
        name = f"{type(self).__name__}.{function.__name__}"
        if logp.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name}: logp is {logp.dtype}; probabilities must be float32 or float64")
        advantage = torch.as_tensor(advantage, dtype=logp.dtype, device=logp.device)
        mask = (
            torch.ones_like(logp, dtype=torch.bool)
            if mask is None
            else torch.as_tensor(mask, device=logp.device).bool()
        )
        inputs = {"old_logp": old_logp, "advantage": advantage, "mask": mask}
        for field, x in (("entropy", entropy), ("entropy_now", entropy_now)):
            if field not in self.needs:
                continue
            if x is None:
                raise ValueError(f"{name} needs {field}=, of {_WHOSE[field]}, [B, T] in nats")
            inputs[field] = x
        for field, x in inputs.items():
            try:
                inputs[field] = x.expand(logp.shape)
            except RuntimeError:
                raise ValueError(
                    f"{name}: {field} has shape {tuple(x.shape)}, which does not broadcast to "
                    f"logp's {tuple(logp.shape)}"
                ) from None
        live = inputs.pop("mask")
        logp, old_logp, advantage, *rest = (torch.where(live, x.to(logp.dtype), 0) for x in (logp, *inputs.values()))
        w = function(self, logp, old_logp, advantage, live, *rest)
        if not isinstance(w, Tensor) or w.shape != logp.shape or w.dtype != logp.dtype:
            got = f"{w.dtype} {tuple(w.shape)}" if isinstance(w, Tensor) else repr(w)
            raise MethodError(f"{name} returned {got}; expected {logp.dtype} {tuple(logp.shape)}")
        return torch.where(live, w, 0)

    return wrapped


@dataclass(frozen=True)
class Method:
    """Base class. A subclass has hyper-parameters as annotated fields, and defines `weight`.

        @dgpo.register("mine")
        class Mine(dgpo.Method):
            power: float = 0.5

            def weight(self, logp, old_logp, advantage, mask=None):
                return (self.power * (logp - old_logp)).exp()

    Whatever a subclass's `weight` does, callers can rely on this (it is wrapped on definition): gradients are off;
    masked values, including NaN and ±inf, cannot reach it and come back as 0; the result has the shape and
    dtype of `logp`, which is float32 or float64; inside `weight`, `mask` is always a boolean tensor.

    A subclass says in `needs` what its weight depends on beyond the token itself:

        sequence      the other tokens of the completion, which the trainer never separates
        entropy       the entropies of the policy that sampled, which `weight` gets as a fifth argument, [B, T] in nats
        entropy_now   those of the policy that is being updated, as the next argument
        batch         the other sequences of the optimizer batch: the trainer then weighs the whole batch, by one more
                      forward pass, before it cuts it into micro-batches
    """

    key: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()
    aggregation: ClassVar[str] = "token-mean"  # the reduction that the method's own paper uses

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not isinstance(cls.needs, tuple) or {*cls.needs} - {*NEEDS}:
            raise TypeError(f"{cls.__name__}.needs={cls.needs!r} must be a tuple of some of {', '.join(NEEDS)}")
        for name in {"weight", "penalty"} & cls.__dict__.keys():
            setattr(cls, name, _guarded(cls.__dict__[name]))

    def __post_init__(self):
        for f in dataclasses.fields(self):
            object.__setattr__(self, f.name, plain(getattr(self, f.name)))
            check(self.key or type(self).__name__, f, getattr(self, f.name))

    def weight(self, logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor | None = None) -> Tensor:
        """w_log of every token, without gradient. `advantage` and `mask` broadcast to `logp`, `[B, T]`.

        `mask` is 1 on live tokens; None means all are. A method that needs entropies takes them as `entropy` and
        `entropy_now`, `[B, T]`.
        Raises ValueError for shapes that do not broadcast or a dtype other than float32 and float64.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define weight(logp, old_logp, advantage, mask=None)")

    def penalty(self, logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """An addition to the coefficient −A·w_log of ∇log π that is not a multiple of A; None for none.

        Arguments as for `weight`; without gradient.
        """
        return None

    def coefficients(
        self,
        logp: Tensor,
        old_logp: Tensor,
        advantage: Tensor,
        mask: Tensor,
        entropy: Tensor | None,
        entropy_now: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """(weight, penalty); a method that needs entropies gets them."""
        entropies: dict = {"entropy": entropy, "entropy_now": entropy_now}
        extra = {name: x for name, x in entropies.items() if name in self.needs}
        given = (logp, old_logp, advantage, mask)
        without = type(self).penalty is Method.penalty
        return self.weight(*given, **extra), None if without else self.penalty(*given, **extra)

    @classmethod
    def has_curve(cls) -> bool:
        """Whether r, A and π_old decide the gradient of a token that is alone in its sequence."""
        return not {"entropy", "entropy_now", "batch"} & {*cls.needs} and cls.penalty is Method.penalty

    @property
    def trust_region(self) -> tuple[float, float]:
        """(εl, εh), which sort this method's tokens into regions; 0.2 for methods without their own."""
        return DEFAULT_EPS, DEFAULT_EPS

    def log_ratio(self, logp: Tensor, old_logp: Tensor, mask: Tensor | None = None) -> Tensor:
        """The log ratio that decides a token's region, `[B, T]`: its own, unless a method looks at sequences."""
        return logp - old_logp

    def regions(self, logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor | None = None) -> Region:
        """The region of every token for this method; arguments as for `weight`, all of one shape."""
        return regions(self.log_ratio(logp, old_logp, mask), advantage, *self.trust_region)

    def params(self) -> dict:
        """The hyper-parameters by name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def __str__(self):
        inner = ", ".join(f"{k}={v:g}" if isinstance(v, (int, float)) else f"{k}={v}" for k, v in self.params().items())
        return f"{self.key or type(self).__name__}({inner})"


@dataclass(frozen=True)
class TrustRegion(Method):
    """A method written as log w_log per region. A subclass defines `log_weight`; −inf there is a weight of 0.

    Log space keeps a huge ratio in one region from overflowing the expression of another.
    """

    eps_low: float = param(DEFAULT_EPS, above=0, below=1)
    eps_high: float = param(DEFAULT_EPS, above=0, below=1)

    @property
    def trust_region(self):
        return self.eps_low, self.eps_high

    @property
    def log_low(self) -> float:
        return math.log(1 - self.eps_low)

    @property
    def log_high(self) -> float:
        return math.log(1 + self.eps_high)

    def __post_init__(self):
        super().__post_init__()
        dual_clip = getattr(self, "dual_clip", None)
        if dual_clip is not None and dual_clip <= 1 + self.eps_high:
            raise ValueError(
                f"method {self.key or type(self).__name__!r}: dual_clip={dual_clip!r} must be above "
                f"1 + eps_high = {1 + self.eps_high:g}, the end of the trust region"
            )

    def log_weight(self, log_ratio: Tensor, region: Region) -> Tensor:
        raise NotImplementedError(f"{type(self).__name__} does not define log_weight(log_ratio, region)")

    def weight(self, logp, old_logp, advantage, mask=None):
        log_ratio = self.log_ratio(logp, old_logp, mask)
        return self.log_weight(log_ratio, regions(log_ratio, advantage, *self.trust_region)).exp()


def sequence_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of x over the live tokens of each sequence, kept as `[B, 1]`; 0 for a sequence without any."""
    mask = torch.ones_like(x) if mask is None else mask
    return (x * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp(min=1)


_REGISTRY: dict[str, type[Method]] = {}


Kind = TypeVar("Kind", bound=type[Method])


def register(key: str) -> Callable[[Kind], Kind]:
    """Register a Method as `key`, and make it a frozen dataclass if it is not one.

    Running the same definition again, as a notebook cell does, replaces it. Raises TypeError for any other class.
    """

    def add(cls: Any) -> Any:
        if not (isinstance(cls, type) and issubclass(cls, Method)):
            raise TypeError(f"method {key!r}: {cls!r} must be a subclass of dgpo.Method")
        if "__dataclass_params__" not in cls.__dict__:
            cls = dataclass(frozen=True)(cls)
        known = _REGISTRY.get(key)
        if known and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(f"method {key!r} is already registered by {known.__module__}.{known.__qualname__}")
        cls.key = key
        _REGISTRY[key] = cls
        return cls

    return add


def names() -> tuple[str, ...]:
    """All registered keys, in order of registration."""
    return tuple(_REGISTRY)


def get_class(key: str) -> type[Method]:
    """The class registered as `key`, or importable as `module:Class`; ValueError with the known keys otherwise."""
    if ":" in key and key not in _REGISTRY:
        cls = locate(key)
        if not vars(cls).get("key"):  # a base class may have one
            register(key)(cls)
        return cls
    if key not in _REGISTRY:
        known = ", ".join(names())
        raise ValueError(f"unknown method {key!r}{_hint(key, names())}; known methods: {known}, or module:Class")
    return _REGISTRY[key]


def get(key: str, **params) -> Method:
    """The method `key` with its defaults, overridden by `params`.

    Raises ValueError for an unknown key, an unknown parameter or a value out of range; it lists what is allowed.
    """
    cls = get_class(key)
    allowed = [f.name for f in dataclasses.fields(cls)]
    for name, value in params.items():
        if name not in allowed:
            listed = ", ".join(allowed) if allowed else "none"
            raise ValueError(f"method {key!r} has no parameter {name!r} (given {value!r}); its parameters: {listed}")
    if missing := [f.name for f in dataclasses.fields(cls) if _required(f) and f.name not in params]:
        raise ValueError(f"method {key!r} needs {missing[0]}=..., which has no default")
    return cls(**params)


def _required(f: dataclasses.Field) -> bool:
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def _hint(word, options) -> str:
    close = difflib.get_close_matches(str(word), options, n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
