"""Figures of sweeps: each takes `analysis.sweeps.Results` and returns a matplotlib Figure.

One colour for each method, as everywhere; bands and bars are 95 % bootstrap intervals over seeds, small dots single
runs.
"""

import math

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from analysis import run_plots, style
from analysis.axes import scale_axis
from analysis.heat_maps import wide_span
from analysis.plots import OUTSIDE, blank, finish, looks_of, stack_regions
from analysis.sweeps import METRICS, Results, SweepError, comparison, scores, surviving
from dgpo.evaluation.scores import powers

_CURVES = (
    ("eval/avg@{k}", "held-out avg@{k}"),
    ("reward/mean", "training reward"),
    ("entropy", "entropy (nats a token)"),
)


def learning(results: Results, lines=None, publication: bool = False):
    """The paper's figure 3 over steps: held-out score, reward and entropy (rows), a column for each panel."""
    with style.figure_style(publication) as plt:
        fig, axes = _grid(plt, len(_CURVES), len(results.panels), publication, sharex=True, sharey="row")
        for j, panel in enumerate(results.panels):
            for line, look in _looks(results, lines):
                frame = results.steps(line, panel)
                for ax, (column, _) in zip(axes[:, j], _CURVES, strict=True):
                    _curve(ax, frame, column.format(k=results.k), look)
            axes[0, j].set_title(panel)
            axes[-1, j].set_xlabel("step")
            axes[-1, j].xaxis.set_major_locator(MaxNLocator(integer=True))
        for ax, (_, label) in zip(axes[:, 0], _CURVES, strict=True):
            ax.set_ylabel(label.format(k=results.k))
        for row in axes:
            row[0].set_ylim(bottom=0)
        return finish(plt, fig, _handles(axes), empty="no run has come so far")


def pass_curves(results: Results, lines=None, publication: bool = False):
    """The paper's figure 3 over k: pass@k after the last step, a column for each panel; grey: before training."""
    ks = powers(results.k)
    columns = [f"eval/avg@{results.k}" if k == 1 else f"eval/pass@{k}" for k in ks]
    with style.figure_style(publication) as plt:
        fig, axes = _grid(plt, 1, len(results.panels), publication, sharey=True)
        for ax, panel in zip(axes[0], results.panels, strict=True):
            start = results.frame[results.frame["step"] == 0][columns].mean()
            ax.plot(ks, start, color="#AAAAAA", linewidth=4, alpha=0.5, label="before training")
            for line, look in _looks(results, lines):
                last = results.steps(line, panel).dropna(subset=columns).groupby("seed")[columns].last()
                _band(ax, ks, last.to_numpy(), look)
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_locator(FixedLocator(ks))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticklabels([str(k) for k in ks])
            ax.set(title=panel, xlabel="k")
        axes[0, 0].set_ylabel("pass@k")
        axes[0, 0].set_ylim(0, 1.02)
        return finish(plt, fig, _handles(axes))


def outcome(results: Results, metric: str = "avg", publication: bool = False):
    """Every run (dot; cross if collapsed), the mean over seeds (tick), and avg@k before training (dotted).

    All panels share one scale. Raises SweepError for a single seed.
    """
    results.check()
    frame = results.runs
    found = {panel: scores(results, metric, panel) for panel in results.panels}
    with style.figure_style(publication) as plt:
        size = (5.5, 0.9 + 0.2 * len(results.lines)) if publication else (0, 1.2 + 0.3 * len(results.lines))
        fig, axes = _grid(plt, 1, len(results.panels), publication, height=size[1], sharex=True, sharey=True)
        order = results.lines[::-1]
        for ax, panel in zip(axes[0], results.panels, strict=True):
            values = found[panel]
            if metric == "avg":
                began = frame.loc[frame["panel"] == panel, "start"].mean()
                ax.axvline(began, color="#666666", linewidth=1, linestyle=":", zorder=0)
            for i, line in enumerate(order):
                colour = style.colour(results.method(line))
                if np.isfinite(values[line]).all():
                    ax.plot(values[line].mean(), i, marker="|", markersize=12, markeredgewidth=2.5, color=colour)
                fell = frame[(frame["line"] == line) & (frame["panel"] == panel)].set_index("seed")["collapsed"]
                fell = fell.loc[results.sweep.seeds].to_numpy()
                for mark, chosen in (("o", ~fell), ("x", fell)):
                    ax.plot(values[line][chosen, 0], [i] * chosen.sum(), mark, color=colour, markersize=4, alpha=0.8)
            ax.set(title=panel, xlabel=METRICS[metric].format(k=results.k))
            ax.set_yticks(range(len(order)), [results.labels[line] for line in order])
            ax.set_ylim(-0.6, len(order) - 0.4)
        return finish(plt, fig)


def differences(results: Results, reference: str, metric: str = "avg", publication: bool = False):
    """Paired differences to `reference`: a small dot for each seed in which neither run collapsed, a large one for
    their mean.

    The line is the exact 95 % sign-flip interval of that comparison alone; it is absent if there are too few seeds.
    """
    order = [line for line in results.lines if line != reference][::-1]
    if not order:
        return blank(f"no line beside {results.labels[reference]} to take a difference of", publication)
    found = comparison(results, metric, reference)
    with style.figure_style(publication) as plt:
        height = 1.3 + 0.3 * len(order)
        fig, axes = _grid(plt, 1, len(results.panels), publication, height=height, sharex=True, sharey=True)
        for ax, panel in zip(axes[0], results.panels, strict=True):
            rows = found[found["panel"] == panel].set_index("line")
            ax.axvline(0, color="#888888", linewidth=1)
            for i, line in enumerate(order):
                row, colour = rows.loc[line], style.colour(results.method(line))
                each = surviving(results, metric, line, reference, panel)
                ax.plot(each, [i] * len(each), "o", color=colour, markersize=3, alpha=0.6)
                if np.isfinite([row["low"], row["high"]]).all():
                    ax.plot([row["low"], row["high"]], [i, i], color=colour, linewidth=1.5)
                ax.plot(row["difference"], i, "o", color=colour, markeredgecolor="white", markersize=7)
            ax.set(title=panel, xlabel=f"minus {results.labels[reference]}")
            ax.set_yticks(range(len(order)), [results.labels[line] for line in order])
            ax.set_ylim(-0.6, len(order) - 0.4)
        fig.suptitle(METRICS[metric].format(k=results.k))
        return finish(plt, fig)


def regions(results: Results, panel: str | None = None, lines=None, publication: bool = False):
    """Share of tokens outside the trust region over steps, by region, mean over seeds: a plot for each line."""
    panel = results.panels[-1] if panel is None else panel
    lines = list(lines or results.lines)
    columns = min(4, len(lines))
    rows = math.ceil(len(lines) / columns)
    with style.figure_style(publication) as plt:
        fig, axes = _grid(plt, rows, columns, publication, width=3.2, height=2.3, sharex=True, sharey=True)
        for ax in axes.flat[len(lines) :]:
            ax.set_visible(False)
        highest, handles = 0.0, []
        for ax, line in zip(axes.flat, lines, strict=False):
            frame = results.steps(line, panel)
            shares = frame[frame["step"] > 0].set_index("step").reindex(columns=[f"tokens/{r}" for r in OUTSIDE])
            mean = shares.groupby(level=0).mean()
            handles = stack_regions(ax, mean.index, {r: mean[f"tokens/{r}"] for r in OUTSIDE})
            ax.set_title(results.labels[line])
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.margins(x=0)
            highest = max(highest, 100 * mean.sum(axis=1).max()) if len(mean) else highest
        axes[0, 0].set_ylim(0, 1.05 * highest or 1)
        for ax in axes[:, 0]:
            ax.set_ylabel("tokens (%)")
        for ax in axes.flat[max(0, len(lines) - columns) : len(lines)]:
            ax.set_xlabel("step")
            ax.tick_params(labelbottom=True)
        fig.suptitle(f"outside the trust region{', ' + panel if panel else ''}")
        return finish(plt, fig, handles, columns=2, empty="no step was made")


def extremes(results: Results, publication: bool = False):
    """The extremes of every run: the largest weights ever applied and the largest gradient norm. Crosses collapsed."""
    frame = results.runs.dropna(subset=["max_w_log"])
    if frame.empty:
        return blank("no run made an update", publication)
    of = "" if results.applied else ", also where A = 0"
    panels = (
        ("max_w_log", f"largest |w_log|{of}"),
        ("max_w_prob", f"largest |w_prob|{of}"),
        ("max_grad_norm", "largest gradient norm before clipping"),
    )
    order = results.lines[::-1]
    with style.figure_style(publication) as plt:
        height = 1.5 + 0.3 * len(order)
        fig, axes = _grid(plt, 1, len(panels), publication, width=4.2, height=height, sharey=True)
        shifts = np.linspace(0.22, -0.22, len(results.panels)) if len(results.panels) > 1 else [0.0]
        for ax, (column, label) in zip(axes[0], panels, strict=True):
            for i, line in enumerate(order):
                for shift, panel in zip(shifts, results.panels, strict=True):
                    part = frame[(frame["line"] == line) & (frame["panel"] == panel)]
                    for mark, chosen in (("o", part[~part["collapsed"]]), ("x", part[part["collapsed"]])):
                        ax.plot(
                            chosen[column], [i + shift] * len(chosen), mark,
                            color=style.colour(results.method(line)), markersize=4,
                        )  # fmt: skip
            scale_axis(ax, "x", frame[column])
            ax.set(xlabel=label)
            ax.set_yticks(range(len(order)), [results.labels[line] for line in order])
            ax.set_ylim(-0.6, len(order) - 0.4)
        above = "; in each row from above: " + " | ".join(results.panels) if len(results.panels) > 1 else ""
        fig.suptitle(f"a dot a run, a cross where it collapsed{above}")
        return finish(plt, fig)


def grid(results: Results, metric: str = "avg", publication: bool = False):
    """DGPO's n × m: mean over seeds and number of collapsed runs; GPPO and the hard clip beside it, on one scale."""
    frame = results.runs
    if len(results.panels) > 1:
        raise SweepError(f"the n × m picture is of one panel; this sweep has: {', '.join(results.panels)}")
    params = {line: results.configs[results.cell(line, results.panels[0])] for line in results.lines}
    inner = {line: (c.method_params["n"], c.method_params["m"]) for line, c in params.items() if c.method == "dgpo"}
    outer = [line for line in results.lines if line not in inner]
    if not inner:
        raise SweepError("the n × m picture needs lines of method 'dgpo'")
    ns, ms = (sorted({pair[i] for pair in inner.values()}) for i in (0, 1))
    mean = frame.groupby("line")[metric].mean()
    fell = frame.groupby("line")["collapsed"].agg(["sum", "count"])
    if not np.isfinite(mean).any():
        return blank(f"no {METRICS[metric].format(k=results.k)}: no run came so far", publication)

    def table(lines: list[list[str | None]], rows: list[str], columns: list[str]) -> dict:
        """The values of a heat map and the text of its cells."""
        values = [[np.nan if line is None else mean[line] for line in row] for row in lines]
        texts = [
            [
                "" if line is None else _cell(mean[line], int(fell["sum"][line]), int(fell["count"][line]))
                for line in row
            ]
            for row in lines
        ]
        return {"data": pd.DataFrame(values, rows, columns), "annot": np.array(texts)}

    names = [f"{n:g}" for n in ns], [f"{m:g}" for m in ms]
    dgpo = table([[_of(inner, (n, m)) for m in ms] for n in ns], *names)
    limits = table([[line] for line in outer], [results.labels[line] for line in outer], [""])
    error = frame.groupby("line")[metric].sem().mean()
    low, high = wide_span(mean, 0 if np.isnan(error) else error)
    look = {"fmt": "", "cmap": "cividis", "vmin": low, "vmax": high, "cbar": False}
    with style.figure_style(publication) as plt:
        size = (5.5, 3.2) if publication else (2.6 + 1.3 * (len(ms) + 1.4), 1.6 + 0.7 * len(ns))
        fig, axes = plt.subplots(1, 2, figsize=size, width_ratios=[len(ms), 1.2 if outer else 0.01])
        sns.heatmap(**dgpo, **look, ax=axes[0])
        axes[0].set(
            title="DGPO",
            xlabel="m  (1: HP as in GPPO; larger: towards unclipped)",
            ylabel="n  (larger: towards hard clip on LN)",
        )
        axes[1].set_visible(bool(outer))
        if outer:
            sns.heatmap(**limits, **look, ax=axes[1])
            axes[1].set(title="limits", xticks=[])
            axes[1].yaxis.tick_right()
        for ax in axes:
            ax.grid(False)
            ax.tick_params(axis="y", rotation=0)
        image, label = axes[0].collections[0], METRICS[metric].format(k=results.k)
        fig.colorbar(image, ax=axes, label=label, location="bottom", shrink=0.6)
        return finish(plt, fig)


def along(results: Results, factor: str, metrics=("avg", "entropy"), publication: bool = False):
    """Metrics after the last step against a numerical factor, such as `updates`: a curve for each line."""
    other = [name for name in results.sweep.factors if name not in (results.factor, factor)]
    if other or factor not in results.sweep.factors or factor == results.factor:
        raise SweepError(f"factor {factor!r} must be the one beside {results.factor!r}; there are also: {other}")
    x = [getattr(results.configs[results.cell(results.lines[0], panel)], factor) for panel in results.panels]
    found = {metric: [scores(results, metric, panel) for panel in results.panels] for metric in metrics}
    with style.figure_style(publication) as plt:
        fig, axes = _grid(plt, 1, len(metrics), publication, height=3.6, width=5.0)
        for ax, metric in zip(axes[0], metrics, strict=True):
            for line, look in _looks(results):
                _band(ax, x, np.concatenate([values[line] for values in found[metric]], 1), look | {"marker": "o"})
            ax.set_xscale("log", base=2)
            ax.xaxis.set_major_locator(FixedLocator(x))
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set_xticklabels([f"{value:g}" for value in x])
            ax.set(xlabel=factor, ylabel=METRICS[metric].format(k=results.k))
        return finish(plt, fig, _handles(axes))


def boundary(results: Results, lines=None, panel: str | None = None, steps: int = 1):
    """The paper's figure 4 from the same point of training: token weights of the first steps, first seed.

    Up to the first update all lines have the same policy and samples. Without `lines`, it draws the first line of
    each of the first six methods.
    """
    panel = results.panels[-1] if panel is None else panel
    if lines is None:
        first = {}
        for line in results.lines:
            first.setdefault(results.method(line), line)
        lines = [*first.values()][:6]
    chosen = [results.run(line, panel, results.sweep.seeds[0]) for line in lines]
    return run_plots.boundary_weights(chosen, steps, [results.labels[line] for line in lines])


def _curve(ax, frame: pd.DataFrame, column: str, look: dict) -> None:
    """A thin line for each run and the mean over seeds, over the steps that all seeds have."""
    if column not in frame:
        return
    wide = frame.pivot(index="seed", columns="step", values=column).dropna(axis=1)
    marker = {"marker": "o", "markersize": 3} if column.startswith("eval/") else {}
    _band(ax, wide.columns, wide.to_numpy(), look | marker)


def _band(ax, x, values: np.ndarray, look: dict) -> None:
    """A band of `values` `[seeds, points]`; points that a run did not reach are left out."""
    there = np.isfinite(values).all(0)
    x, values = np.asarray(x)[there], values[:, there]
    if not values.size:
        return
    if len(values) > 1:
        ax.plot(x, values.T, color=look["color"], linewidth=0.6, alpha=0.4)
    ax.plot(x, values.mean(0), **look)


def _looks(results: Results, lines=None) -> list[tuple[str, dict]]:
    keys, names = [results.method(line) for line in results.lines], [results.labels[line] for line in results.lines]
    found = dict(zip(results.lines, looks_of(keys, names), strict=True))
    return [(line, found[line]) for line in lines or results.lines]


def _grid(plt, rows, columns, publication, width=5.2, height=2.9, **kwargs):
    total = 5.5 if publication else width * columns
    tall = rows * (min(height, 1.7) if publication and rows > 1 else height)
    return plt.subplots(rows, columns, figsize=(total, tall + 0.5), squeeze=False, **kwargs)


def _handles(axes) -> list:
    return [line for ax in axes.flat for line in ax.get_lines() if not line.get_label().startswith("_")]


def _cell(value: float, collapsed: int, runs: int) -> str:
    return f"{value:.3f}" + (f"\n{collapsed}/{runs} collapsed" if collapsed else "")


def _of(pairs: dict, wanted):
    return next((line for line, pair in pairs.items() if pair == wanted), None)
