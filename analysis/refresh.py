"""The token of `analysis.flow` over many batches: what is left of its laws when π_old is refreshed.

A batch samples the token with probability π_old and makes `updates` steps. In expectation, a step moves its log-odds by

    lr · π_old · A · w_log(π/π_old) · κ (1−π),        κ = 1 + 1/others

With π_old frozen the factor π_old is constant and the laws of `flow` hold. With π_old = π at the start of each batch,
the ratio of a rare token stays near 1, where every method weighs 1, and it is sampled less and less:

    dπ/d(batch) ≈ −updates · lr · κ π²   ⇒   π → 1 / (updates · lr · κ · batches),   whatever the method

Methods then part only inside a batch, where it has many or large updates. (A token that each batch samples anyway falls
exponentially under every method.)
"""

import math

import numpy as np
import pandas as pd

from analysis import style
from analysis.flow import OTHERS
from analysis.landscape import key_of, resolve_all, weigh
from analysis.plots import finish, looks_of

_LOWEST = 1e-6  # of the figure


def fall(methods, batches: int, updates: int = 16, lr: float = 0.5, pi_old=0.05, others: int = OTHERS, frozen=False):
    """Exact expected ascent on a bad token (A = −1); a row for each method and batch.

    Columns: method, name, batch, update (made so far), pi, lowest_ratio of the batch. `frozen` keeps the first π_old,
    as in one long batch. Raises ValueError for counts below 1 and lr that is not positive.
    """
    if batches < 1 or updates < 1 or not lr > 0:
        raise ValueError(f"batches={batches!r}, updates={updates!r}, lr={lr!r}: all must be positive")
    rows = []
    for method in resolve_all(methods):
        old = pi_old
        odds = math.log(pi_old) - math.log1p(-pi_old)
        for batch in range(1, batches + 1):
            lowest = 1.0
            for _ in range(updates):
                log_pi = -np.logaddexp(0, -odds)
                w = float(weigh(method, log_pi - math.log(old), -1.0, old))
                odds -= lr * old * w * (1 + 1 / others) * -math.expm1(log_pi)
                lowest = min(lowest, math.exp(-np.logaddexp(0, -odds)) / old)
            pi = math.exp(-np.logaddexp(0, -odds))
            rows.append((key_of(method), str(method), batch, batch * updates, pi, lowest))
            old = old if frozen else max(pi, 1e-300)
    return pd.DataFrame(rows, columns=["method", "name", "batch", "update", "pi", "lowest_ratio"])


def figure(falls: dict[str, pd.DataFrame], publication: bool = False):
    """π over updates, a panel for each frame of `fall`, on one scale."""
    with style.figure_style(publication) as plt:
        size = (5.5, 2.4) if publication else (4.2 * len(falls), 3.6)
        fig, axes = plt.subplots(1, len(falls), figsize=size, sharey=True, squeeze=False)
        handles = []
        for ax, (title, found) in zip(axes[0], falls.items(), strict=True):
            names = found.drop_duplicates("name")
            for name, look in zip(names["name"], looks_of(list(names["method"]), list(names["name"])), strict=True):
                line = found[found["name"] == name]
                handles += ax.plot(line["update"], line["pi"], **look)
            ax.set(title=title, xscale="log", yscale="log", ylim=(_LOWEST, 0.1), xlabel="updates made")
            below = found.groupby("method", sort=False)["pi"].max() < _LOWEST
            if below.any():
                names = " and ".join(style.label(key) for key in below.index[below])
                ax.text(0.03, 0.03, f"from the first batch on below: {names}", transform=ax.transAxes)
        axes[0, 0].set_ylabel("probability π of the bad token")
        return finish(plt, fig, handles)
