"""Matrices as colours: a score over two dials, and how much of it is noise."""

import numpy as np
import pandas as pd
import seaborn as sns

from analysis import style
from analysis.plots import blank, finish


def wide_span(values, error: float) -> tuple[float, float]:
    """The least and the largest value, at least four standard errors `error` off the mean: noise stays one colour."""
    centre = np.nanmean(values)
    return min(np.nanmin(values), centre - 4 * error), max(np.nanmax(values), centre + 4 * error)


def heat_map(
    values, rows, columns, *, row_label="", column_label="", value_label="", error=0.0, digits=2, publication=False
):
    """A matrix `[rows, columns]` as colours, with its numbers in the cells; the palette also works in grey-scale.

    error     standard error of a cell, named beside the colours and seen to by `wide_span`
    """
    values = np.asarray(values, float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(f"values have shape {values.shape}; expected [{len(rows)} rows, {len(columns)} columns]")
    if not np.isfinite(values).any():
        return blank(f"no {value_label or 'values'} to draw", publication)
    with style.figure_style(publication) as plt:
        size = (5.5, 4.0) if publication else (1.5 + 0.85 * len(columns), 1.2 + 0.55 * len(rows))
        fig, ax = plt.subplots(figsize=size)
        table = pd.DataFrame(values, [_short(r) for r in rows], [_short(c) for c in columns])
        low, high = wide_span(values, error)
        label = value_label + (f" (standard error {error:.{digits}f})" if error else "")
        look = {"cmap": "cividis", "vmin": low, "vmax": high, "cbar_kws": {"label": label}}
        sns.heatmap(table, annot=True, fmt=f".{digits}f", ax=ax, **look)
        ax.set(xlabel=column_label, ylabel=row_label)
        ax.grid(False)
        ax.tick_params(axis="y", rotation=0)
        return finish(plt, fig)


def _short(x):
    return f"{x:g}" if isinstance(x, (int, float)) else str(x)
