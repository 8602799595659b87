"""Figures of evaluations: pass@k over k, problem by problem, lengths and verdicts."""

import math

import numpy as np
import seaborn as sns
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

from analysis import style
from analysis.evaluations import Evaluations, problems
from analysis.plots import blank, finish
from dgpo.evaluation.scores import VERDICTS, pass_curve, powers

VERDICT_COLOURS = {
    "correct": "#1B7837",
    "wrong": "#9970AB",
    "no_answer": "#999999",
    "unparsed": "#E7D4E8",
    "timeout": "#40004B",
}
_SHOWN_TICKS = 60  # problems; with more, names are left out


def pass_curves(evaluations: Evaluations, publication: bool = False):
    """pass@k for all k ≤ n: a panel for each benchmark and their mean. Bands: dark over samples, pale over problems."""
    names = list(dict.fromkeys(samples.benchmark for group in evaluations.values() for samples in group))
    if not names:
        return blank("no benchmark was evaluated", publication)
    panels = [*names, None] if len(names) > 1 else names
    columns = min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    with style.figure_style(publication) as plt:
        size = (5.5, 2.2 * rows + 0.5) if publication else (max(6, 4.2 * columns), 3.4 * rows + 0.5)
        fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        handles = []
        for ax, panel in zip(axes.flat, panels, strict=False):
            largest = 1
            for name, group in evaluations.items():
                chosen = [s for s in group if panel in (None, s.benchmark)]
                if not chosen:
                    continue
                curve, look = pass_curve(chosen), style.line(name)
                inner = curve["pass"].between(1e-9, 1 - 1e-9)  # at the edge another kind of interval would make a jump
                handles += ax.plot(curve["k"], curve["pass"], **look)
                for kind, alpha in (("problems", 0.1), ("samples", 0.3)):
                    band = curve[f"{kind}_low"], curve[f"{kind}_high"]
                    ax.fill_between(curve["k"], *band, where=inner, color=look["color"], alpha=alpha, linewidth=0)
                largest = max(largest, int(curve["k"].max()))
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_locator(FixedLocator(powers(largest)))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticklabels([str(k) for k in powers(largest)])
            ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
            ax.set(title=panel or f"mean of {len(names)} benchmarks", xlabel="k", ylabel="pass@k")
        return finish(plt, fig, handles)


def problem_map(evaluations: Evaluations, benchmark: str, publication: bool = False):
    """Share of right answers to each problem (columns, hardest first) of each policy (rows)."""
    frame = problems(evaluations, benchmark)
    with style.figure_style(publication) as plt:
        size = (5.5, 1.2 + 0.3 * len(frame.columns)) if publication else (11, 1.7 + 0.4 * len(frame.columns))
        fig, ax = plt.subplots(figsize=size)
        names = [str(name) for name in frame.index] if len(frame) <= _SHOWN_TICKS else False
        bar = {"label": "right answers", "format": PercentFormatter(1, decimals=0)}
        sns.heatmap(frame.T, cmap="cividis", vmin=0, vmax=1, xticklabels=names, cbar_kws=bar, ax=ax)
        ax.set_yticklabels([style.label(name) for name in frame.columns], rotation=0)
        never, always = ((frame == edge).all(axis=1).sum() for edge in (0, 1))
        ax.set_xlabel(f"{len(frame)} problems, hardest first; {never} never solved by any, {always} always by all")
        ax.set_title(benchmark)
        return finish(plt, fig)


def lengths(evaluations: Evaluations, publication: bool = False):
    """Left: lengths of right and of other completions. Right: their verdicts, with the truncated share as a number."""
    rows = [(name, samples) for name, group in evaluations.items() for samples in group][::-1]
    several = len({samples.benchmark for _, samples in rows}) > 1
    if not rows:
        return blank("no benchmark was evaluated", publication)
    labels = [f"{style.label(name)}{', ' + samples.benchmark if several else ''}" for name, samples in rows]
    with style.figure_style(publication) as plt:
        height = 1.6 + 0.5 * len(rows)
        fig, axes = plt.subplots(1, 2, figsize=(5.5, height) if publication else (11.5, height), sharey=True)
        for i, (_, samples) in enumerate(rows):
            right = samples.verdicts == "correct"
            for chosen, shift, verdict in ((right, 0.18, "correct"), (~right, -0.18, "wrong")):
                colour = VERDICT_COLOURS[verdict]
                if chosen.any():
                    low, first, middle, third, high = np.quantile(
                        samples.lengths[chosen], [0.05, 0.25, 0.5, 0.75, 0.95]
                    )
                    axes[0].plot([low, high], [i + shift] * 2, color=colour, linewidth=1)
                    axes[0].plot([first, third], [i + shift] * 2, color=colour, linewidth=5, solid_capstyle="butt")
                    axes[0].plot(middle, i + shift, marker="o", color="white", markeredgecolor=colour, markersize=5)
            left = 0.0
            for verdict in VERDICTS:
                share = float((samples.verdicts == verdict).mean())
                axes[1].barh(i, share, 0.6, left=left, color=VERDICT_COLOURS[verdict], label=verdict.replace("_", " "))
                left += share
            cut = 1 - samples.finished.mean()
            axes[1].text(1.02, i, f"truncated {cut:.2%}", va="center", transform=axes[1].get_yaxis_transform())
        axes[0].set_yticks(range(len(rows)), labels)
        axes[0].set_ylim(-0.6, len(rows) - 0.4)
        axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        axes[0].margins(x=0.15)
        axes[0].set(xlabel="tokens: median, 25 to 75 %, 5 to 95 %", title="length (green, above: right answers)")
        axes[1].set(title="what became of the completions", xlim=(0, 1))
        axes[1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes[1].grid(False, axis="y")
        return finish(plt, fig, axes[1].get_legend_handles_labels()[0], columns=5)
