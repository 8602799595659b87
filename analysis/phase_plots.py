"""Figures of bias and variance: moments over the distance, the closest method, the cost of a wrong choice."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from analysis import style
from analysis.estimator import exact
from analysis.landscape import key_of, resolve_all
from analysis.phase import Diagram, Family
from analysis.plots import finish

_DISTANCE = "distance  KL(π_old ‖ π)  (nats)"
_SAMPLES = "samples a batch"
_PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 1}


def moments(family: Family, chosen, distances: Sequence[float], publication: bool = False) -> Figure:
    """Squared bias, variance of one sample and cosine of each method over the distance; medians over the family."""
    panels = {"bias": "squared bias", "variance": "variance of one sample", "cosine": "cosine to the true gradient"}
    made = resolve_all(chosen)
    moved = [family.moved(d) for d in distances]
    with style.figure_style(publication) as plt:
        fig, axes = plt.subplots(1, 3, figsize=(5.5, 2.2) if publication else (12.6, 3.6))
        handles = []
        for method in made:
            found = [exact(method, family.logits, logits, family.advantage) for logits in moved]
            for ax, name in zip(axes, panels, strict=True):
                values = [np.nanmedian(x) if np.isfinite(x := getattr(m, name)).any() else np.nan for m in found]
                look = {**style.line(key_of(method)), "label": _label(method)}
                handles += ax.plot(distances, np.where(np.array(values) > 0, values, np.nan), **look)[:1]
        for ax, (name, title) in zip(axes, panels.items(), strict=True):
            ax.set(xscale="log", xlabel=_DISTANCE, title=title)
            if name != "cosine":
                ax.set(yscale="log", ylabel="÷ squared norm of the true gradient")
        axes[0].set_ylim(bottom=1e-5)
        return finish(plt, fig, handles[:: len(panels)], columns=8)


def winners(diagrams: Mapping[str, Diagram], marks: Mapping[str, tuple] | None = None, publication=False) -> Figure:
    """The method with the least error over (distance, samples), a panel for each diagram, in the methods' colours.

    Hatched: the least error is above 1, so that no gradient at all would be closer. `marks` are {label: (distances,
    samples)}, lines drawn over every panel.
    """
    with style.figure_style(publication) as plt:
        count = len(diagrams)
        fig, axes = plt.subplots(1, count, figsize=(5.5, 2.6) if publication else (4.4 * count, 4.0), squeeze=False)
        handles = {}
        for ax, (title, made) in zip(axes[0], diagrams.items(), strict=True):
            best = made.error.argmin(0)
            colours = ListedColormap([style.colour(name.partition("(")[0]) for name in made.names])
            ax.pcolormesh(
                made.distances, made.samples, best.T, cmap=colours, vmin=-0.5, vmax=len(made.names) - 0.5, alpha=0.75
            )
            ax.contourf(
                made.distances, made.samples, made.error.min(0).T, levels=[1, np.inf], colors="none", hatches=["////"]
            )
            for label, (distances, samples) in (marks or {}).items():
                ax.plot(distances, samples, color="black", linewidth=2)
                ax.annotate(label, (distances[0], samples[-1]), (0, 4), textcoords="offset points", bbox=_PAPER)
            ax.set(xscale="log", yscale="log", xlabel=_DISTANCE, ylabel=_SAMPLES, title=title)
            for i in np.unique(best):
                name = made.names[i]
                handles[name] = Rectangle((0, 0), 1, 1, color=colours(i), alpha=0.75, label=_named(name))
        handles["hatch"] = Rectangle(
            (0, 0), 1, 1, facecolor="none", hatch="////", edgecolor="#444444", label="worse than no gradient"
        )
        return finish(plt, fig, list(handles.values()), columns=8)


def regrets(made: Diagram, names: Sequence[str], publication: bool = False) -> Figure:
    """Each method's error as a multiple of the least error, over (distance, samples); one scale for all panels."""
    with style.figure_style(publication) as plt:
        width = 5.5 if publication else 3.6 * len(names) + 1
        fig, axes = plt.subplots(1, len(names), figsize=(width, 2.6 if publication else 3.8), sharey=True)
        image: Any = None
        for ax, name in zip(np.atleast_1d(axes), names, strict=True):
            image = ax.pcolormesh(
                made.distances, made.samples, np.log10(made.regret(name)).T, cmap="cividis", vmin=0, vmax=2
            )
            lines = ax.contour(
                made.distances, made.samples, made.regret(name).T, levels=[1.1, 2, 10], colors="white", linewidths=0.8
            )
            ax.clabel(lines, fmt="×%g", fontsize=8)
            ax.set(xscale="log", yscale="log", xlabel=_DISTANCE, title=_named(name))
        np.atleast_1d(axes)[0].set_ylabel(_SAMPLES)
        bar = fig.colorbar(image, ax=axes, label="error ÷ the least error", ticks=[0, 1, 2], extend="max")
        bar.ax.set_yticklabels(["1", "10", "100"])
        return finish(plt, fig)


def _named(name: str) -> str:
    key, bracket, rest = name.partition("(")
    return style.label(key) + (f" ({rest}" if bracket else "")


def _label(method) -> str:
    return style.label(key_of(method))
