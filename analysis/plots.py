"""Figures from data: each function takes a frame (its docstring names the columns) and returns a matplotlib Figure.

Colours, dashes and labels come from `analysis.style`, so a method looks the same in every figure. Figures are closed
before they are returned, so that a notebook shows each once, as the value of its cell. `publication=True` gives a
5.5-inch width.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from analysis import style
from analysis.axes import label_ends, scale_axis
from analysis.landscape import landscape as _landscape
from analysis.landscape import resolve_all
from analysis.stats import curve
from dgpo.methods import REGIONS

SPACE_LABELS = {"w_log": "w_log", "gate": "π_old · w_prob", "logit": "|w_log| · ‖e_a−π‖"}
_SPACE_TITLES = {"w_log": "weight on ∇log π", "gate": "weight on ∇π  (1/π_old)", "logit": "logit gradient"}
OUTSIDE = tuple(r for r in REGIONS if r != "IN")
_X_LABELS = {"ratio": "ratio r = π/π_old", "pi": "probability π"}


def _figure(plt, rows, columns, publication, width=4.4, height=3.0, **kwargs):
    total = 5.5 if publication else width * columns
    tall = (total / columns) * (0.78 if publication else height / width) * rows
    return plt.subplots(rows, columns, figsize=(total, tall + 0.6), squeeze=False, **kwargs)


def finish(plt, fig, handles=None, columns=4, empty="nothing to draw"):
    """Name lines at their ends and the rest in a legend below, write `empty` in panels without data, close the figure.

    handles      what has a name: lines are named beside the column of panels where most of them part
    columns      at most so many of the legend
    """
    for ax in fig.axes:
        silent = ax.get_visible() and not ax.texts and not hasattr(ax, "_colorbar")
        if silent and not np.isfinite(ax.dataLim.get_points()).all():
            say(ax, empty)
    unique = {h.get_label(): h for h in handles or ()}
    for name in label_ends(fig.axes, [name for name, h in unique.items() if isinstance(h, Line2D)]):
        del unique[name]
    if unique:
        rows = math.ceil(len(unique) / columns)
        columns = math.ceil(len(unique) / rows)  # rows as even as possible
        fig.legend(unique.values(), unique, loc="outside lower center", ncols=columns, handlelength=3.2)
    plt.close(fig)
    return fig


def say(ax, text):
    """Write in the middle of a panel what is missing there."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", va="center", color="#666666")


def blank(text, publication=False):
    """A figure for an input without data: it says what is missing."""
    with style.figure_style(publication) as plt:
        fig, ax = plt.subplots(figsize=(5.5, 1.2))
        ax.set_axis_off()
        return finish(plt, fig, empty=text)


def _sign_name(advantage):
    return f"A {'>' if advantage > 0 else '<'} 0"


def _lines(frame):
    """(look, rows) of each line of a panel; `look` holds the keyword arguments of `plot`."""
    names = list(dict.fromkeys(zip(frame["method"], frame["name"], strict=True)))
    looks = looks_of([k for k, _ in names], [n for _, n in names])
    for look, (_, name) in zip(looks, names, strict=True):
        yield look, frame[frame["name"] == name]


def looks_of(keys, names):
    """Colour, dash and label of each line. Settings of one method share its colour, ever lighter."""
    looks = []
    for i, (key, name) in enumerate(zip(keys, names, strict=True)):
        nth, look = keys[:i].count(key), style.line(key)
        if keys.count(key) > 1:
            look["label"] = name
        if nth:
            white = 1 - 0.65**nth
            look["color"] = tuple(c + (1 - c) * white for c in to_rgb(look["color"]))
            look["linestyle"] = (0, (2 + 2 * nth, 1))
        looks.append(look | {"zorder": 2.1 if look["linestyle"] == "-" else 2.2})
    return looks


def landscape(
    frame: pd.DataFrame,
    *,
    spaces=("w_log", "gate"),
    columns: str = "space",
    x: str = "ratio",
    log_x: bool | None = None,
    log_y: bool | None = None,
    reference: bool = True,
    publication: bool = False,
):
    """Small multiples of a frame from `analysis.landscape.landscape`: a row for each sign of the advantage.

    `columns="space"` draws all methods in one panel for each space; `columns="method"` draws one panel for each
    method in the first space, with unclipped PG behind it. The trust region of the panel's first method is shaded.
    Axes are logarithmic where the data span decades unless `log_x`, `log_y` say otherwise.
    """
    if columns not in ("space", "method") or x not in _X_LABELS:
        raise ValueError(f"columns={columns!r}, x={x!r}: columns is 'space' or 'method', x is 'ratio' or 'pi'")
    if unknown := [s for s in spaces if s not in SPACE_LABELS]:
        raise ValueError(f"unknown space {unknown[0]!r}; known: {', '.join(SPACE_LABELS)}")
    if frame.empty:
        return blank("no weights to draw", publication)
    signs = sorted(frame["advantage"].unique(), reverse=True)
    panels = list(spaces) if columns == "space" else list(frame["name"].unique())
    per_method = columns == "method"
    with style.figure_style(publication) as plt:
        layout: dict[str, Any] = {"width": 2.7, "sharey": True} if per_method else {"sharey": "col"}
        fig, axes = _figure(plt, len(signs), len(panels), publication, sharex=True, **layout)
        handles = []
        for i, advantage in enumerate(signs):
            rows = frame[frame["advantage"] == advantage]
            for j, panel in enumerate(panels):
                ax, space = axes[i, j], spaces[0] if per_method else panel
                part = rows[rows["name"] == panel] if per_method else rows
                drawn = [ax.plot(line[x], line[space], **look)[0] for look, line in _lines(part)]
                handles += [] if per_method else drawn  # a panel of one method has its name as the title
                if per_method and reference and part["method"].iloc[0] != "pg":
                    handles += [_reference(ax, part, x, space)]
                eps_low, eps_high = part[["eps_low", "eps_high"]].iloc[0]
                unit = part["pi_old"].iloc[0] if x == "pi" else 1.0
                style.shade_trust_region(ax, unit * (1 - eps_low), unit * (1 + eps_high))
                if ax.has_data():
                    _name_regions(ax, advantage, unit * (1 - eps_low), unit * (1 + eps_high))
                if j == 0 or not per_method:
                    ax.set_ylabel((f"{_sign_name(advantage)}\n" if j == 0 else "") + SPACE_LABELS[space])
                if i == 0:
                    ax.set_title(next(_lines(part))[0]["label"] if per_method else _SPACE_TITLES[space])
                if i == len(signs) - 1:
                    ax.set_xlabel(_X_LABELS[x])
        for row in axes:  # last, since a limit set earlier would cut off later lines
            for ax, panel in zip(row, panels, strict=True):  # one quantity, one scale, for both signs and all methods
                scale_axis(ax, "x", frame[x], log_x)
                scale_axis(ax, "y", frame[spaces[0] if per_method else panel], log_y)
        return finish(plt, fig, handles)


def _name_regions(ax, advantage, low, high):
    """LP and HP, or LN and HN, beside the trust region."""
    sign = "P" if advantage > 0 else "N"
    look: dict[str, Any] = {"transform": ax.get_xaxis_transform(), "va": "top", "color": "#999999", "fontsize": "small"}
    ax.text(low, 0.99, f"L{sign} ", ha="right", **look)
    ax.text(high, 0.99, f" H{sign}", ha="left", **look)


def _reference(ax, part, x, space):
    values = {"w_log": part["ratio"], "gate": np.ones(len(part)), "logit": part["ratio"] * (1 - part["pi"])}[space]
    return ax.plot(part[x], values, **{**style.line("pg"), "linewidth": 1.1, "zorder": 1.5})[0]


def method_curves(methods, pi_old: float = 0.05, *, low: float = 1e-2, spaces=("w_log", "gate"), publication=False):
    """One or several methods (keys, Methods, functions) against unclipped PG, both signs, on ∇log π and on ∇π."""
    chosen = resolve_all(methods)
    if not any(getattr(m, "key", "") == "pg" for m in chosen):
        chosen = [*chosen, *resolve_all("pg")]
    return landscape(_landscape(chosen, pi_old, low=low), spaces=spaces, publication=publication)


METRIC_LABELS = {
    "regret": "regret a step",
    "cumulative_regret": "cumulative regret",
    "entropy": "entropy (nats)",
    "p_best": "probability of the optimal arms",
    "support": "arms above the threshold",
    "ratio_spread": "std of log r within a step",
    "w_max": "largest |w_log|",
    "gradient": "gradient norm",
    "gradient_variance": "gradient variance",
}
FLOW_LABELS = {
    "pi": "probability π",
    "rest": "1 − π",
    "ratio": "ratio r",
    "logit_speed": "logit speed  dz_a/dt",
    "gradient": "logit gradient norm",
    "log_pi": "log π",
    "time": "time  (steps · learning rate)",
    "fall": "fall of the token's log π (nats)",
    "drift": "drift of the other tokens (total variation)",
}


def curves(runs, metrics=("cumulative_regret", "entropy", "p_best"), *, rng=None, log_y=(), publication=False):
    """Learning curves of `analysis.bandit.Runs`: a row for each setting, a column for each metric, 95 % intervals
    over seeds.

    Steps are on a logarithmic axis. The interval of the mean is a percentile bootstrap; `rng` is a numpy Generator
    (seed 0 by default).
    """
    rng = np.random.default_rng(0) if rng is None else rng
    if unknown := [m for m in metrics if m not in runs.data]:
        raise ValueError(f"unknown metric {unknown[0]!r}; recorded: {', '.join(runs.data)}")
    looks = looks_of(list(runs.methods), list(runs.names))
    if not (looks and runs.settings):
        return blank("no runs to draw", publication)
    with style.figure_style(publication) as plt:
        fig, axes = _figure(plt, len(runs.settings), len(metrics), publication, width=3.7, height=2.7, sharex=True)
        handles = []
        for i, setting in enumerate(runs.settings):
            for j, metric in enumerate(metrics):
                ax = axes[i, j]
                for k, look in enumerate(looks):
                    values = runs.data[metric][k, i]
                    mean, low, high = curve(values, rng) if len(values) > 1 else (values[0],) * 3
                    handles += ax.plot(runs.step, mean, **look)
                    ax.fill_between(runs.step, low, high, color=look["color"], alpha=0.15, linewidth=0)
                if metric in log_y and (runs.data[metric][:, i] > 0).any():
                    ax.set_yscale("log")
                name = METRIC_LABELS.get(metric, metric)
                ax.set_ylabel(f"{setting}\n{name}" if j == 0 and len(runs.settings) > 1 else name)
                ax.set_xscale("log")  # most of it happens in the first steps
                if len(runs.step):
                    ax.set_xlim(right=runs.step[-1])
                if i == len(runs.settings) - 1:
                    ax.set_xlabel("step")
        return finish(plt, fig, handles)


def stack_regions(ax, x, shares: dict) -> list:
    """Stack the shares of the regions `OUTSIDE` over x in per cent, hatched for grey-scale."""
    colours, labels = [style.REGION_COLOURS[r] for r in shares], [style.REGION_LABELS[r] for r in shares]
    layers = ax.stackplot(x, [100 * np.asarray(share) for share in shares.values()], colors=colours, labels=labels)
    for layer, hatch in zip(layers, ("", "", "///", "..."), strict=False):
        layer.set(hatch=hatch, edgecolor="white", linewidth=0.3)
    ax.set_ylim(bottom=0)
    return layers


def region_shares(runs, setting: int = 0, *, publication=False):
    """Areas of the token shares outside the trust region, by region: a panel for each method, mean over seeds.

    The axis of steps ends where no method has more than half a per cent there any longer.
    """
    labels = [look["label"] for look in looks_of(list(runs.methods), list(runs.names))]
    if not labels:
        return blank("no runs to draw", publication)
    columns = min(3, len(labels))
    rows = math.ceil(len(labels) / columns)
    with style.figure_style(publication) as plt:
        fig, axes = _figure(plt, rows, columns, publication, width=3.7, height=2.3, sharex=True, sharey=True)
        handles = []
        outside = sum(runs.data[f"share_{r}"][:, setting].mean(1) for r in OUTSIDE)
        busy = np.flatnonzero(np.asarray(outside).max(0) > 0.005)  # points at which it is more than half a per cent
        for k, ax in enumerate(axes.flat):
            if k >= len(labels):
                ax.set_visible(False)
                continue
            handles = stack_regions(ax, runs.step, {r: runs.data[f"share_{r}"][k, setting].mean(0) for r in OUTSIDE})
            ax.set_title(labels[k])
            if len(busy) and len(runs.step) > 1:
                ax.set_xlim(runs.step[0], runs.step[min(busy[-1] + 1, len(runs.step) - 1)])
            ax.set_xlabel("step" if k // columns == rows - 1 else "")
            ax.set_ylabel("share of tokens (%)" if k % columns == 0 else "")
        return finish(plt, fig, handles, columns=2)


def dynamics(
    frame: pd.DataFrame, panels=("pi", "logit_speed"), *, over=None, log_x=True, reference=(), publication=False
):
    """Quantities of `analysis.flow`'s and `analysis.leakage`'s frames over time, a panel for each.

    over         what each panel has on its x axis instead, a column for each panel; a dot marks where a line ends
    reference    (label, time, value) lines for the first panel
    """
    if frame.empty:
        return blank("no time at which the flow was recorded", publication)
    with style.figure_style(publication) as plt:
        fig, axes = _figure(plt, 1, len(panels), publication)
        handles = []
        for ax, panel, x in zip(axes[0], panels, over or ["time"] * len(panels), strict=True):
            for look, line in _lines(frame):
                handles += ax.plot(line[x], line[panel], **look)
                if over:
                    ax.plot(line[x].iloc[-1], line[panel].iloc[-1], "o", color=look["color"], markersize=4)
            scale_axis(ax, "x", frame[x], log_x)
            if panel not in ("pi", "rest"):
                scale_axis(ax, "y", frame[panel], False if panel == "logit_speed" else None)
            ax.set(xlabel=FLOW_LABELS.get(x, x), ylabel=FLOW_LABELS.get(panel, panel))
            if panel in ("pi", "rest") and frame[panel].max() > 0:
                ax.set_yscale("log")  # a token that underflows to 0 leaves at the bottom
                ax.set_ylim(max(frame[panel].min() / 2, 1e-12), frame[panel].max() * 2)
        for label, time, value in reference:
            axes[0, 0].plot(time, value, color="#333333", linewidth=0.9, zorder=3)
            axes[0, 0].annotate(label, (time[-1], value[-1]), (4, 0), textcoords="offset points", va="center")
        return finish(plt, fig, handles)


def intervals(summary: pd.DataFrame, column: str = "difference", *, label: str = "", publication=False):
    """Points with intervals, a line for each method: a column of `analysis.stats.summary` with its _low and _high."""
    if column not in summary:
        raise ValueError(f"no column {column!r}; there are: {', '.join(summary.columns)}")
    rows = summary.dropna(subset=[column])[::-1]
    if rows.empty:
        return blank(f"no {label or column} to draw", publication)
    with style.figure_style(publication) as plt:
        fig, ax = plt.subplots(figsize=(5.5 if publication else 6.4, 1.1 + 0.34 * len(rows)))
        for i, (key, row) in enumerate(rows.iterrows()):
            value, low, high = row[column], row[f"{column}_low"], row[f"{column}_high"]
            spread, colour = [[value - low], [high - value]], style.colour(str(key))
            ax.errorbar(value, i, xerr=spread, fmt="o", color=colour, capsize=3)
        if column == "difference":
            ax.axvline(0, color="#888888", linewidth=1)
        ax.set_yticks(range(len(rows)), [style.label(k) for k in rows.index])
        ax.set_xlabel(label or column)
        ax.set_ylim(-0.6, len(rows) - 0.4)
        return finish(plt, fig)
