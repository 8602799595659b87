"""Axes that say what they show: scales that fit the data, and the name of each line at its end, in its colour."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator
from scipy.optimize import isotonic_regression

MOST = 8  # lines that a panel names at their ends; more have a legend


def scale_axis(ax, axis, values, log=None, decades=6):
    """Logarithmic if the values span decades; symmetric logarithmic, linear near 0, if some are 0 or negative.

    If all are 0, or there are none, the axis stays linear. Below the largest by
    `decades` (three if signs differ) it is linear.
    """
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    size = np.abs(values[values != 0])
    log = log if len(size) else False
    spans = bool(len(size)) and size.max() / np.quantile(size, 0.02) > 30
    zero_line = axis == "y" and not (values > 0).all()
    linthresh = 0.0
    if spans if log is None else log:
        set_scale = ax.set_yscale if axis == "y" else ax.set_xscale
        if (values > 0).all():
            set_scale("log")
        else:
            # A sign change passes through every small size: only decades near the largest are worth drawing.
            floor = max(size.min(), size.max() * 10.0 ** -(decades if (values >= 0).all() else 3))
            linthresh = 10 ** math.floor(math.log10(floor))
            set_scale("symlog", linthresh=linthresh, linscale=0.6)
            if axis == "y":
                ax.yaxis.set_major_locator(_ZeroAndDecades(linthresh, size.max()))
    if zero_line:
        ax.axhline(0, color="#BBBBBB", linewidth=0.8, zorder=1)
    if axis == "y" and (values >= 0).all() and not (values > 0).all():
        ax.set_ylim(bottom=-0.04 * ax.get_ylim()[1] if ax.get_yscale() == "linear" else -0.4 * linthresh)


class _ZeroAndDecades(FixedLocator):
    """Ticks at 0 and at about five powers of ten of either sign, none too close to 0."""

    def __init__(self, low, high):
        first, last = round(math.log10(low)), math.floor(math.log10(high))
        powers = 10.0 ** np.arange(first, last + 1, max(1, math.ceil((last - first + 1) / 5)))
        super().__init__([*-powers[::-1], 0, *powers])


def label_ends(axes: Sequence[Axes], names: Sequence[str]) -> set[str]:
    """Name the lines at the right of the column of panels where most of them part. Returns the names it wrote.

    A line ends at its last finite point inside the limits; one that has left stands at the edge where it did.
    """
    columns: dict[int, list[tuple[Axes, list]]] = {}
    for ax in axes:
        place = ax.get_subplotspec()
        lines = {line.get_label(): line for line in ax.get_lines() if line.get_linestyle() != "None"}
        lines = [line for name, line in lines.items() if name in names and np.size(line.get_xdata()) > 1]
        ends = [(line, end) for line in lines if (end := _end(ax, line))]
        if place and ax.get_visible() and ends:
            columns.setdefault(place.colspan.start, []).append((ax, ends))
    columns = {i: part for i, part in columns.items() if max(len(ends) for _, ends in part) <= MOST}
    if not columns:
        return set()
    parted = {i: sum(len({round(y, 1) for _, (_, y) in ends}) for _, ends in part) for i, part in columns.items()}
    chosen = columns[max(columns, key=lambda i: (parted[i], i))]
    for ax, ends in chosen:
        order = sorted(range(len(ends)), key=lambda i: (ends[i][1][1], -i))  # of equal ends the first line's is on top
        heights = apart(np.array([ends[i][1][1] for i in order]), _gap(ax))
        for i, height in zip(order, heights, strict=True):
            line, end = ends[i]
            arrow = {"arrowstyle": "-", "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 1, "shrinkB": 0}
            ax.annotate(
                str(line.get_label()),
                end,
                (1.05, float(height)),
                "axes fraction",
                "axes fraction",
                arrow | {"color": line.get_color()},
                annotation_clip=False,
                color=line.get_color(),
                va="center",
                fontsize="small",
            )
    return {str(line.get_label()) for _, ends in chosen for line, _ in ends}


def apart(heights: np.ndarray, gap: float) -> np.ndarray:
    """The nearest heights, by squared distance, that are `gap` apart in the same order and, if they fit, in [0, 1].

    h* = argmin Σ (h* − h)² with h*_{i+1} − h*_i ≥ gap: an isotonic regression of h − i · gap, clipped, for
    heights that ascend.
    """
    steps = gap * np.arange(len(heights))
    return isotonic_regression(heights - steps).x.clip(0, max(0.0, 1 - steps[-1])) + steps


def _end(ax: Axes, line: Line2D) -> tuple[float, float] | None:
    points = np.column_stack([np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)])
    low, high = sorted(ax.get_xlim())
    points = points[np.isfinite(points).all(1) & (points[:, 0] >= low) & (points[:, 0] <= high)]
    if not len(points):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        x, y = ax.transAxes.inverted().transform(ax.transData.transform(points[-1]))
    return float(x), float(np.clip(np.nan_to_num(y, nan=0.0, neginf=0.0), 0, 1))


def _gap(ax: Axes) -> float:
    """The height of a line of text as a share of the panel's, before the layout is known."""
    place, figure = ax.get_subplotspec(), ax.figure
    rows = place.get_gridspec().nrows if place else 1
    tall = 72 * figure.bbox.height / figure.dpi / rows - 45  # points, less those of ticks and labels
    return 12.5 / max(tall, 40.0)
