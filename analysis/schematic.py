"""The paper's figure 1, from the weights: where a method stops a token's update, slows it down or pushes harder.

    gate = w_log / r        0 stops · below 1 slows down · 1 as unclipped · above 1 pushes harder · below 0 pulls back

The reference is unclipped importance sampling, whose gate is 1 at every ratio.
"""

import math

import numpy as np
import pandas as pd

from analysis import style
from analysis.landscape import key_of, resolve_all, trust_region_of, weigh
from analysis.plots import finish

WORDS = {  # in words: greys, since colours are methods
    "pulls back": "#FFFFFF",
    "stops": "#FFFFFF",
    "slows down": "#DEDEDE",
    "as unclipped": "#B4B4B4",
    "pushes harder": "#6E6E6E",
}
_CLOSE = 0.02  # a gate so near to 1 counts as unclipped, as on the explorable


def doing(gate) -> np.ndarray:
    """The word for each gate, any shape."""
    gate = np.asarray(gate, float)
    chosen = [gate < 0, gate == 0, gate < 1 - _CLOSE, gate <= 1 + _CLOSE]
    return np.select(chosen, list(WORDS)[:4], "pushes harder")


def segments(methods, pi_old: float = 0.05, lowest: float = 0.01, points: int = 2001) -> pd.DataFrame:
    """Ranges of r in which a method does one thing to a token: `method advantage word low high`, r from low to high.

    r runs from `lowest` to 1/π_old, where the token is certain; `advantage` is the sign of A.
    """
    rows = []
    for method in resolve_all(methods):
        edges = np.log1p([-trust_region_of(method)[0], trust_region_of(method)[1]])
        log_r = np.linspace(math.log(lowest), -math.log(pi_old), points)
        log_r = np.sort(np.append(log_r, [*(edges - 1e-9), *(edges + 1e-9)]))
        for advantage in (1, -1):
            words = doing(weigh(method, log_r, float(advantage), pi_old) / np.exp(log_r))
            starts = np.flatnonzero(np.append(True, words[1:] != words[:-1]))
            ends = np.append(starts[1:], len(words) - 1)
            rows += [
                (method, advantage, words[i], math.exp(log_r[i]), math.exp(log_r[j]))
                for i, j in zip(starts, ends, strict=True)
            ]
    return pd.DataFrame(rows, columns=["method", "advantage", "word", "low", "high"])


def figure(methods, pi_old: float = 0.05, publication: bool = False):
    """A line for each method: what it does to a bad token (left) and to a good one (right), over the ratio."""
    chosen, found = resolve_all(methods), segments(methods, pi_old)
    with style.figure_style(publication) as plt:
        size = (5.5, 0.8 + 0.3 * len(chosen)) if publication else (11, 1.3 + 0.42 * len(chosen))
        fig, axes = plt.subplots(1, 2, figsize=size, sharey=True)
        for ax, advantage in zip(axes, (-1, 1), strict=True):
            for i, method in enumerate(reversed(chosen)):
                part = found[(found["method"] == method) & (found["advantage"] == advantage)]
                for row in part.itertuples():
                    _segment(ax, i, row)
            title = "a good token, A > 0" if advantage > 0 else "a bad token, A < 0"
            ax.set(xscale="log", xlabel="ratio r = π/π_old", title=title, xlim=(found["low"].min(), 1 / pi_old))
            ax.set_yticks(range(len(chosen)), [style.label(key_of(m)) for m in reversed(chosen)])
            ax.axvline(1, color="#000000", linewidth=0.8, linestyle=":")
            ax.grid(False)
        return finish(plt, fig)


def _segment(ax, line, row):
    """One bar, with its word where there is room."""
    width, hatch = row.high - row.low, "///" if row.word == "stops" else None
    look = {"color": WORDS[row.word], "edgecolor": "#555555", "hatch": hatch, "linewidth": 0.6}
    ax.barh(line, width, left=row.low, height=0.7, **look)
    if math.log(row.high / row.low) > 1.3:
        dark = row.word == "pushes harder"
        middle = math.sqrt(row.low * row.high)
        box = {"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 1} if hatch else None
        ax.text(middle, line, row.word, ha="center", va="center", color="white" if dark else "black", bbox=box)
