"""Figures from data: each function takes a frame (see its docstring for the columns) and returns a matplotlib Figure.

Colours, dashes and labels come from `analysis.style`, so a method looks the same in every figure. A Figure is closed
before it is returned: a notebook shows it once, as the value of its cell. `publication=True` gives a 5.5-inch width.
"""

import math

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator

from analysis import style
from analysis.landscape import landscape as _landscape
from analysis.landscape import resolve_all

SPACE_LABELS = {"w_log": "w_log", "gate": "π_old · w_prob", "logit": "|w_log| · ‖e_a−π‖"}
_SPACE_TITLES = {"w_log": "weight on ∇log π", "gate": "weight on ∇π  (1/π_old)", "logit": "logit gradient"}
_X_LABELS = {"ratio": "ratio r = π/π_old", "pi": "probability π"}


def _figure(plt, rows, columns, publication, width=4.4, height=3.0, **kwargs):
    total = 5.5 if publication else width * columns
    tall = (total / columns) * (0.78 if publication else height / width) * rows
    return plt.subplots(rows, columns, figsize=(total, tall + 0.6), squeeze=False, **kwargs)


def _finish(plt, fig, handles=None, columns=4):
    """Put the legend under the axes, where it overlaps nothing, and close the figure."""
    if handles:
        unique = {h.get_label(): h for h in handles}
        columns = min(columns, len(unique))
        fig.legend(unique.values(), unique, loc="outside lower center", ncols=columns, handlelength=3.2)
    plt.close(fig)
    return fig


def _scale(ax, axis, values, log=None):
    """Log where the values span decades; symmetric log, linear near 0, where some of them are 0 or negative."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    size = np.abs(values[values != 0])
    spans = bool(len(size)) and size.max() / np.quantile(size, 0.02) > 30
    zero_line = axis == "y" and not (values > 0).all()
    if spans if log is None else log:
        set_scale = ax.set_yscale if axis == "y" else ax.set_xscale
        if (values > 0).all():
            set_scale("log")
        else:
            # A sign change passes every small size on its way: only decades near the largest are worth drawing.
            floor = max(size.min(), size.max() * (1e-6 if (values >= 0).all() else 1e-3))
            linthresh = 10 ** math.floor(math.log10(floor))
            set_scale("symlog", linthresh=linthresh, linscale=0.6)
            if axis == "y":
                ax.yaxis.set_major_locator(_ZeroAndDecades(linthresh, size.max()))
    if zero_line:
        ax.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=1)
    if axis == "y" and (values >= 0).all() and not (values > 0).all():
        ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1] if ax.get_yscale() == "linear" else -0.4 * linthresh)


class _ZeroAndDecades(FixedLocator):
    """Ticks at 0 and at about five powers of ten of either sign, none of them crowding 0."""

    def __init__(self, low, high):
        first, last = round(math.log10(low)), math.floor(math.log10(high))
        powers = 10.0 ** np.arange(first, last + 1, max(1, math.ceil((last - first + 1) / 5)))
        super().__init__(np.concatenate([-powers[::-1], [0], powers]))


def _sign_name(advantage):
    return f"A {'>' if advantage > 0 else '<'} 0"


def _lines(frame):
    """(name, rows) per line of a panel. A key with several settings is labelled by its full name."""
    variants = frame.groupby("method")["name"].nunique()
    for name, part in frame.groupby("name", sort=False):
        key = part["method"].iloc[0]
        yield key, (style.label(key) if variants[key] == 1 else name), part


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
    """Small multiples of a frame from `analysis.landscape.landscape`: a row per sign of the advantage.

    `columns="space"` draws all methods in one panel per space; `columns="method"` one panel per method in the first
    space, unclipped PG behind it for reference. The trust region of the first method (of the panel's) is shaded.
    Axes are logarithmic where the data span decades unless `log_x`, `log_y` say otherwise.
    """
    if columns not in ("space", "method") or x not in _X_LABELS:
        raise ValueError(f"columns={columns!r}, x={x!r}: columns is 'space' or 'method', x is 'ratio' or 'pi'")
    if unknown := [s for s in spaces if s not in SPACE_LABELS]:
        raise ValueError(f"unknown space {unknown[0]!r}; known: {', '.join(SPACE_LABELS)}")
    signs = sorted(frame["advantage"].unique(), reverse=True)
    panels = list(spaces) if columns == "space" else list(frame["name"].unique())
    per_method = columns == "method"
    with style.figure_style(publication) as plt:
        layout = {"width": 2.7, "sharey": "row"} if per_method else {}
        fig, axes = _figure(plt, len(signs), len(panels), publication, sharex=True, **layout)
        handles = []
        for i, advantage in enumerate(signs):
            rows = frame[frame["advantage"] == advantage]
            for j, panel in enumerate(panels):
                ax, space = axes[i, j], spaces[0] if per_method else panel
                part = rows[rows["name"] == panel] if per_method else rows
                for key, label, line in _lines(part):
                    look = {**style.line(key), "label": label, "zorder": 2.1 if style.dash(key) == "-" else 2.2}
                    handles += ax.plot(line[x], line[space], **look)
                if per_method and reference:
                    handles += [_reference(ax, part, x, space)]
                eps_low, eps_high = part[["eps_low", "eps_high"]].iloc[0]
                unit = part["pi_old"].iloc[0] if x == "pi" else 1.0
                style.shade_trust_region(ax, unit * (1 - eps_low), unit * (1 + eps_high))
                if j == 0 or not per_method:
                    ax.set_ylabel((f"{_sign_name(advantage)}\n" if j == 0 else "") + SPACE_LABELS[space])
                if i == 0:
                    ax.set_title(style.label(part["method"].iloc[0]) if per_method else _SPACE_TITLES[space])
                if i == len(signs) - 1:
                    ax.set_xlabel(_X_LABELS[x])
        for i, advantage in enumerate(signs):  # last, since a limit set earlier would cut off what comes after
            rows = frame[frame["advantage"] == advantage]
            for j, panel in enumerate(panels):
                _scale(axes[i, j], "x", frame[x], log_x)
                _scale(axes[i, j], "y", rows[spaces[0] if per_method else panel], log_y)
        return _finish(plt, fig, handles)


def _reference(ax, part, x, space):
    values = {"w_log": part["ratio"], "gate": np.ones(len(part)), "logit": part["ratio"] * (1 - part["pi"])}[space]
    return ax.plot(part[x], values, **{**style.line("pg"), "linewidth": 1.1, "zorder": 1.5})[0]


def method_curves(methods, pi_old: float = 0.05, *, low: float = 1e-2, spaces=("w_log", "gate"), publication=False):
    """One or several methods (keys, Methods, functions) against unclipped PG, both signs, on ∇log π and on ∇π."""
    chosen = resolve_all(methods)
    if not any(getattr(m, "key", "") == "pg" for m in chosen):
        chosen = [*chosen, *resolve_all("pg")]
    return landscape(_landscape(chosen, pi_old, low=low), spaces=spaces, publication=publication)
