"""Score against learning rate: where each method works, how well at its best, and how wide its range is.

    results = sweeps.read("runs/sweeps/rates")        a sweep whose factors are the method and `lr`
    table(results)
    figure(results)

A comparison at one shared rate says more about the rate than about the methods.
"""

import math

import numpy as np
import pandas as pd

from analysis import style
from analysis.plots import finish
from analysis.sweeps import METRICS, Results, SweepError

GOOD = 0.9  # a rate works if no run collapsed and the mean is at least this share of the method's best mean


def by_rate(results: Results, metric: str = "avg") -> pd.DataFrame:
    """A row for each line and rate: `line lr seeds mean collapsed`. Raises SweepError without the factor `lr`."""
    if "lr" not in results.sweep.factors or results.factor == "lr" or len(results.sweep.factors) != 2:
        raise SweepError(f"needs the factors of method and lr alone; there are: {', '.join(results.sweep.factors)}")
    rate = {panel: results.configs[results.cell(results.lines[0], panel)].lr for panel in results.panels}
    frame = results.runs.assign(lr=results.runs["panel"].map(rate))
    found = frame.groupby(["line", "lr"], sort=False).agg(
        seeds=("seed", "count"), mean=(metric, "mean"), collapsed=("collapsed", "sum")
    )
    return found.reset_index().sort_values(["line", "lr"], ignore_index=True)


def table(results: Results, metric: str = "avg") -> pd.DataFrame:
    """A row for each line: its best rate, score and collapses there, and the neighbouring rates that work (GOOD)."""
    found, rows = by_rate(results, metric), []
    for line in results.lines:
        mine = found[found["line"] == line].reset_index(drop=True)
        if mine.empty:
            continue
        best = int(mine["mean"].to_numpy().argmax())
        works = (mine["mean"] >= GOOD * mine["mean"][best]) & (mine["collapsed"] == 0)
        low = high = best
        while low > 0 and works[low - 1]:
            low -= 1
        while high + 1 < len(mine) and works[high + 1]:
            high += 1
        rows.append(
            {
                "method": results.labels[line],
                "best lr": mine["lr"][best],
                METRICS[metric].format(k=results.k): mine["mean"][best],
                "collapsed there": f"{mine['collapsed'][best]} of {mine['seeds'][best]}",
                "works from": mine["lr"][low],
                "to": mine["lr"][high],
                "decades": math.log10(mine["lr"][high] / mine["lr"][low]),
            }
        )
    return pd.DataFrame(rows)


def figure(results: Results, metric: str = "avg", publication: bool = False):
    """A plot for each line: every run (dot; cross if collapsed), the mean, and in grey the other lines' means."""
    found = by_rate(results, metric)
    rate = {panel: results.configs[results.cell(results.lines[0], panel)].lr for panel in results.panels}
    lines = results.lines
    columns = min(4, len(lines))
    rows = math.ceil(len(lines) / columns)
    with style.figure_style(publication) as plt:
        size = (5.5, 1.3 * rows + 0.6) if publication else (3.1 * columns, 2.3 * rows + 0.5)
        fig, axes = plt.subplots(rows, columns, figsize=size, sharex=True, sharey=True, squeeze=False)
        for ax in axes.flat[len(lines) :]:
            ax.set_visible(False)
        for ax, line in zip(axes.flat, lines, strict=False):
            for other, part in found.groupby("line", sort=False):
                look = {"color": "#CCCCCC", "linewidth": 0.8, "zorder": 1}
                if other == line:
                    look = {"color": style.colour(results.method(line)), "linewidth": 1.8, "zorder": 2}
                ax.plot(part["lr"], part["mean"], **look)
            runs = results.runs[results.runs["line"] == line]
            for mark, chosen in (("o", runs[~runs["collapsed"]]), ("x", runs[runs["collapsed"]])):
                x = np.array([rate[panel] for panel in chosen["panel"]])
                ax.plot(x, chosen[metric], mark, color=style.colour(results.method(line)), markersize=4)
            ax.set(title=results.labels[line], xscale="log")
        for ax in axes.flat[max(0, len(lines) - columns) : len(lines)]:
            ax.set_xlabel("learning rate")
            ax.tick_params(labelbottom=True)
        for ax in axes[:, 0]:
            ax.set_ylabel(f"avg@{results.k}" if metric == "avg" else metric)
        axes[0, 0].set_ylim(bottom=-0.03)
        return finish(plt, fig)
