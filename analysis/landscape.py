"""The weight that a method puts on a token, against its ratio or probability: the data behind every curve.

    ∇ loss_token = − A · w_log · ∇log π = − A · w_prob · ∇π ,        w_log = π · w_prob

Three views of one weight, each a column of the frame that `landscape` returns:

    w_log   the weight on ∇log π
    gate    the weight on ∇π in units of 1/π_old, π_old · w_prob = w_log / r: unclipped importance sampling is 1
    logit   the length of the gradient on the logits, |w_log| · ‖e_a − π‖

‖e_a − π‖ depends on where the rest of the mass is: spread evenly over `others` tokens it is (1−π)·√(1 + 1/others).
The default, infinitely many others, is the large-vocabulary limit 1−π; a single other token gives the maximum,
√2·(1−π).
"""

import math
from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike

from dgpo import methods as registry
from dgpo.methods import DEFAULT_EPS, REGIONS, regions

SPACES = ("w_log", "gate", "logit")
BOUNDARY_STEP = 1e-9  # distance in log r at which a boundary is sampled on both sides


def resolve(method):
    """A key, a Method class, a Method or a bare `weight(logp, old_logp, advantage, mask)` as an object with `.weight`.

    Raises ValueError for an unknown key (it lists the known ones) and for a method without a curve, TypeError for
    anything else without a weight.
    """
    if isinstance(method, str):
        method = registry.get(method)
    if isinstance(method, type):
        method = method()
    if callable(getattr(method, "weight", None)):
        if not getattr(method, "has_curve", lambda: True)():
            raise ValueError(
                f"{key_of(method)} has no curve: its gradient depends on entropies, the whole batch or a penalty"
            )
        return method
    if isinstance(method, Callable):
        return _Function(method)
    known = ", ".join(registry.names())
    raise TypeError(f"{method!r} is not a method: give a key ({known}), a Method, or a weight function")


class _Function:
    """A bare weight function with the interface of a method."""

    def __init__(self, function):
        self.weight, self.key = function, getattr(function, "__name__", "function")

    def __str__(self):
        return self.key


def resolve_all(methods) -> list:
    """One or several methods as a list of objects with `.weight`; ValueError for an empty list."""
    single = isinstance(methods, (str, type)) or callable(methods) or hasattr(methods, "weight")
    found = [resolve(m) for m in ([methods] if single or not isinstance(methods, Iterable) else methods)]
    if not found:
        raise ValueError("no method given")
    return found


def key_of(method) -> str:
    """The key of a method's colour and label: its registered key, else the name of its class."""
    return getattr(method, "key", "") or type(method).__name__


def trust_region_of(method) -> tuple[float, float]:
    """(εl, εh); 0.2 for a method that has none. ValueError outside 0 < εl < 1, εh > 0."""
    low, high = getattr(method, "trust_region", (DEFAULT_EPS, DEFAULT_EPS))
    if not (0 < low < 1 and 0 < high < math.inf):
        raise ValueError(f"{key_of(method)}: trust_region is ({low}, {high}); it must be εl in (0, 1) and εh > 0")
    return float(low), float(high)


def weigh(method, log_ratio: ArrayLike, advantage: ArrayLike = 1.0, pi_old: ArrayLike = 0.05) -> np.ndarray:
    """w_log of independent one-token sequences, float64, any shape.

    `log_ratio`, `advantage` and `pi_old` broadcast against each other; they reach the method as `[N, 1]`, so a method
    that reduces over a sequence sees each point alone. Raises ValueError, naming the method and the point, if its
    weight has the wrong shape or dtype, tracks gradients, or is NaN.
    """
    points = (np.asarray(x, np.float64) for x in (log_ratio, advantage, pi_old))
    log_ratio, advantage, pi_old = np.broadcast_arrays(*points)
    name, shape = key_of(method), log_ratio.shape
    if not np.all((pi_old > 0) & (pi_old < 1)):
        raise ValueError(f"pi_old={pi_old.flat[0]:g}: a probability strictly between 0 and 1 is needed")
    log_ratio, advantage, pi_old = (torch.from_numpy(x.reshape(-1, 1).copy()) for x in (log_ratio, advantage, pi_old))
    old_logp = pi_old.log()
    logp = (old_logp + log_ratio).requires_grad_()  # so that a weight that keeps its graph is found out
    w = method.weight(logp, old_logp, advantage, torch.ones_like(logp, dtype=torch.bool))
    if not isinstance(w, torch.Tensor) or w.shape != logp.shape or not w.is_floating_point():
        got = f"{w.dtype} {tuple(w.shape)}" if isinstance(w, torch.Tensor) else repr(w)
        raise ValueError(f"{name}.weight returned {got}; expected a float tensor {tuple(logp.shape)}")
    if w.requires_grad:
        raise ValueError(f"{name}.weight tracks gradients; a weight is a constant: compute it under torch.no_grad()")
    bad = torch.isnan(w).flatten()
    if bad.any():
        i = int(bad.nonzero()[0])
        raise ValueError(
            f"{name}.weight returned NaN for {int(bad.sum())} of {w.numel()} tokens, first at "
            f"log r = {log_ratio[i].item():.4g}, A = {advantage[i].item():g}, π_old = {pi_old[i].item():.4g}"
        )
    return w.to(torch.float64).numpy().reshape(shape)


def score_norm(pi, others: float = math.inf):
    """‖e_a − π‖ for a token of probability π, the rest spread evenly over `others` tokens: (1−π)·√(1+1/others)."""
    if not others >= 1:
        raise ValueError(f"others={others!r}: the rest of the mass needs at least one token")
    return (1 - np.asarray(pi, np.float64)) * math.sqrt(1 + 1 / others)


def ratio_grid(pi_old: float, low: float = 1e-2, high: float | None = None, points: int = 401, edges=()) -> np.ndarray:
    """Log-spaced ratios on [low, min(high, 1/π_old)], with both sides of every ratio in `edges` added."""
    if not 0 < pi_old < 1:
        raise ValueError(f"pi_old={pi_old!r}: a probability strictly between 0 and 1 is needed")
    top = 1 / pi_old if high is None else min(high, 1 / pi_old)
    if not 0 < low < top or points < 2:
        raise ValueError(f"no ratios between low={low!r} and {top:g} (1/π_old bounds the ratio) with points={points!r}")
    log_r = np.linspace(math.log(low), math.log(top), points)
    near = [math.log(e) + s for e in edges if low < e < top for s in (-BOUNDARY_STEP, 0, BOUNDARY_STEP)]
    return np.exp(np.minimum(np.unique(np.concatenate([log_r, near])), math.log(top)))


def landscape(
    methods,
    pi_old=0.05,
    *,
    low: float = 1e-2,
    high: float | None = None,
    points: int = 401,
    advantages=(1.0, -1.0),
    others: float = math.inf,
) -> pd.DataFrame:
    """The weights of one or several methods on a grid of ratios, as a tidy frame.

    `pi_old` is a number or several; ratios run from `low` to `high`, at most to 1/π_old where π reaches 1. Columns:
    method (key), name (with hyper-parameters), eps_low, eps_high, pi_old, advantage, ratio, pi, region, w_log, gate,
    w_prob (= gate/π_old, per unit of probability), logit. Weights may be negative, and are kept so.

    Raises ValueError naming the method for weights of the wrong shape, NaN, or with a graph; for bad π_old or range.
    """
    rows = []
    for method in resolve_all(methods):
        eps_low, eps_high = trust_region_of(method)
        for old in np.atleast_1d(pi_old).astype(float):
            ratio = ratio_grid(old, low, high, points, edges=(1 - eps_low, 1 + eps_high))
            pi = np.minimum(ratio * old, 1.0)
            for advantage in advantages:
                log_r = np.log(ratio)
                w = weigh(method, log_r, advantage, old)
                sign = torch.full((len(log_r),), float(advantage))
                code = regions(torch.from_numpy(log_r), sign, eps_low, eps_high).code
                rows.append(
                    pd.DataFrame(
                        {
                            "method": key_of(method),
                            "name": str(method),
                            "eps_low": eps_low,
                            "eps_high": eps_high,
                            "pi_old": old,
                            "advantage": float(advantage),
                            "ratio": ratio,
                            "pi": pi,
                            "region": pd.Categorical.from_codes(code.numpy(), pd.Index(REGIONS)),
                            "w_log": w,
                            "gate": w / ratio,
                            "w_prob": w / pi,
                            "logit": np.abs(w) * score_norm(pi, others),
                        }
                    )
                )
    return pd.concat(rows, ignore_index=True)
