"""Figures of the sequence policy: scores against the learning rate, and differences between methods in many worlds."""

import numpy as np
import pandas as pd

from analysis import style
from analysis.plots import blank, finish, looks_of
from dgpo import methods

_LEVEL = 0.05  # of the adjusted p from which a difference is shown filled


def against_rate(found: pd.DataFrame, score: str = "pass@32", publication: bool = False):
    """A score of `analysis.sequence.run`, after the last step, against the learning rate; bands: two standard errors.

    Grey: before the first step, the mean over seeds.
    """
    names = found.drop_duplicates("name")
    with style.figure_style(publication) as plt:
        fig, ax = plt.subplots(figsize=(5.5, 3.2) if publication else (6.4, 4.2))
        last, handles = found[found["step"] == found["step"].max()], []
        for name, look in zip(names["name"], looks_of(list(names["method"]), list(names["name"])), strict=True):
            by_rate = last[last["name"] == name].groupby("lr")[score].agg(["mean", "sem"])
            low, high = by_rate["mean"] - 2 * by_rate["sem"], by_rate["mean"] + 2 * by_rate["sem"]
            handles += ax.plot(by_rate.index, by_rate["mean"], **look)
            ax.fill_between(by_rate.index, low, high, color=look["color"], alpha=0.12, linewidth=0)
        if (first := found[found["step"] == 0])[score].size and found["step"].max() > 0:
            ax.axhline(first[score].mean(), color="#666666", linewidth=0.8, linestyle=":")
            ax.annotate("before training", (0.99, first[score].mean()), xycoords=("axes fraction", "data"), ha="right")
        ax.set(xscale="log", xlabel="learning rate (Adam)", ylabel=f"held-out {score}")
        rates = sorted(last["lr"].unique())
        ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
        ax.minorticks_off()
        return finish(plt, fig, handles)


def differences(table: pd.DataFrame, a: str = "DGPO (2, 2)", publication: bool = False):
    """`a` minus each other method, a row for each world and a panel for each setting, with 95 % intervals.

    table    columns world setting a b difference low high p_holm, as docs/results/sequence/differences.csv; `b` is a
             method's label. Filled: p_holm below 0.05, adjusted for all rows of the table.
    """
    rows = table[(table["a"] == a) & ~table["b"].str.startswith("DGPO")]
    if rows.empty:
        return blank(f"no differences of {a!r}", publication)
    worlds, settings, others = (list(dict.fromkeys(rows[c])) for c in ("world", "setting", "b"))
    keys = {style.label(key): key for key in methods.names()} | {"PG": "pg"}
    with style.figure_style(publication) as plt:
        size = (5.5, 1 + 0.4 * len(worlds)) if publication else (10, 1.2 + 0.55 * len(worlds))
        fig, axes = plt.subplots(1, len(settings), figsize=size, sharex=True, sharey=True, squeeze=False)
        for ax, setting in zip(axes[0], settings, strict=True):
            for i, b in enumerate(others):
                part = rows[(rows["setting"] == setting) & (rows["b"] == b)]
                place = part["world"].map(worlds.index) + np.interp(i, (0, max(1, len(others) - 1)), (-0.3, 0.3))
                line = {"color": style.colour(str(keys.get(b, b))), "label": f"− {b}"}
                ax.hlines(place, part["low"], part["high"], **line)
                shown = part["p_holm"] < _LEVEL
                ax.scatter(part["difference"], place, s=22, zorder=3, edgecolors=line["color"],
                           facecolors=np.where(shown, line["color"], "white"))  # fmt: skip
            ax.axvline(0, color="#888888", linewidth=1)
            ax.set(title=setting, xlabel=f"difference of {a} in pass@32")
        axes[0, 0].set_yticks(range(len(worlds)), worlds)
        axes[0, 0].set_ylim(len(worlds) - 0.5, -0.5)
        return finish(plt, fig, axes[0, 0].get_legend_handles_labels()[0], columns=5)
