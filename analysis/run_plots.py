"""Figures of runs: learning curves, region shares, and the weight of every sampled token (the paper's figure 4)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.ticker import MaxNLocator

from analysis import style
from analysis.axes import scale_axis
from analysis.plots import OUTSIDE, blank, finish, looks_of, say, stack_regions
from analysis.runs import Run
from dgpo.methods import Method

_MAX_POINTS = 15_000
_NO_RECORDS = "no token was recorded:\ntoken_records=0, or no update was made"
_NO_ADVANTAGE = "every advantage is 0, since in every group\nall rewards were equal: no token had a say"
_BOUNDARIES = (("LN", "left boundary LN  (r < 1−ε, A < 0)"), ("HP", "right boundary HP  (r > 1+ε, A > 0)"))


def learning_curves(runs: Run | list[Run], publication: bool = False):
    """Six panels over steps: reward, held-out accuracy with 95 % interval, entropy, KL, ratios, gradient."""
    runs = runs if isinstance(runs, list) else [runs]
    if not runs:
        return blank("no runs to draw", publication)
    with style.figure_style(publication) as plt:
        fig, axes = plt.subplots(2, 3, figsize=(5.5, 3.6) if publication else (12, 6), sharex=True)
        looks = looks_of([run.config.method for run in runs], [_name(run, runs) for run in runs])
        for run, look in zip(runs, looks, strict=True):
            _draw_curves(axes.flat, run, look)
        titles = (
            ("training reward", "mean of the step's completions"),
            ("held-out problems", f"avg@{runs[0].config.eval_samples}  (thin: pass@k)"),
            ("policy entropy", "nats a token"),
            ("KL to the start", "nats a token"),
            ("importance ratio π/π_old", "mean, min to max"),
            ("gradient norm before clipping", "largest of the step"),
        )
        for ax, (title, label) in zip(axes.flat, titles, strict=True):
            ax.set_title(title)
            ax.set_ylabel(label)
        for ax in axes[1]:
            ax.set_xlabel("step")
        axes[0, 0].set_ylim(-0.02, 1.02)
        axes[0, 1].set_ylim(-0.02, 1.02)
        if any((_column(run.steps, "ratio/max") > 0).any() for run in runs):
            axes[1, 1].set_yscale("log")
        if not any("kl/reference" in run.steps or run.steps.empty for run in runs):
            say(axes[1, 0], "not measured: log_reference_kl=false")
        return finish(plt, fig, axes[0, 0].get_lines(), empty="no step was made")


def _draw_curves(axes, run: Run, look: dict) -> None:
    reward, heldout, entropy, kl, ratio, gradient = axes
    steps, tests, k = run.steps, run.evaluations, run.config.eval_samples
    x = steps["step"]
    colour = look["color"]
    reward.plot(x, _column(steps, "reward/mean"), **look)
    heldout.plot(tests["step"], tests[f"eval/avg@{k}"], **look, marker="o", markersize=3)
    heldout.fill_between(
        tests["step"], tests[f"eval/avg@{k}_low"], tests[f"eval/avg@{k}_high"], color=colour, alpha=0.2, linewidth=0
    )
    heldout.plot(tests["step"], tests[f"eval/pass@{k}"], color=colour, linewidth=0.8)
    entropy.plot(x, _column(steps, "entropy"), **look)
    if "kl/reference" in steps:
        kl.plot(x, steps["kl/reference"], **look)
    ratio.fill_between(
        x, _column(steps, "ratio/min"), _column(steps, "ratio/max"), color=colour, alpha=0.25, linewidth=0
    )
    ratio.plot(x, _column(steps, "ratio/mean"), **look)
    low, high = run.method.trust_region
    ratio.axhspan(1 - low, 1 + high, color=style.TRUST, zorder=0)
    gradient.plot(x, _column(steps, "grad_norm/max"), **look)
    gradient.axhline(run.config.grad_clip, color="#888888", linewidth=0.8, linestyle=":")


def _column(steps: pd.DataFrame, name: str) -> pd.Series:
    """A metric of the steps; NaN if there were no steps, or none of them made an update."""
    return steps[name] if name in steps else pd.Series(np.nan, steps.index)


def region_shares(run: Run, publication: bool = False):
    """Stacked shares outside the trust region over steps: of tokens, of Σ|A·w_log|, of Σ|A·w_prob|.

    The rest of the 100 % is inside (IN).
    """
    steps = run.steps
    if steps.empty:
        return blank("no step was made", publication)
    panels = (
        ("tokens", "tokens"),
        ("w_log", "Σ |A · w_log|,  weight on ∇log π"),
        ("w_prob", "Σ |A · w_prob|,  weight on ∇π"),
    )
    with style.figure_style(publication) as plt:
        layers = []
        fig, axes = plt.subplots(1, 3, figsize=(5.5, 2.2) if publication else (12, 3.6))
        for ax, (column, title) in zip(axes, panels, strict=True):
            shares = {r: _column(steps, f"{column}/{r}") for r in OUTSIDE}
            if not any((share > 0).any() for share in shares.values()):
                made = any(share.notna().any() for share in shares.values())
                say(ax, "nothing outside" if made else "no update was made")
            layers = stack_regions(ax, steps["step"], {r: share.fillna(0) for r, share in shares.items()})
            ax.set_title(title)
            ax.set_xlabel("step")
            ax.set_xlim(steps["step"].min(), max(steps["step"].max(), steps["step"].min() + 1))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes[0].set_ylabel("share outside the trust region (%)")
        return finish(plt, fig, layers, columns=2)


def weight_scatter(tokens: pd.DataFrame, method: Method, publication: bool = False):
    """The paper's figure 4: the weight of every sampled token on ∇log π and on ∇π, against ratio and probability.

    `tokens` as `Run.tokens` gives them. The line in the first panel is the method's own curve for either sign of A,
    if it depends on the ratio alone. Points are coloured by advantage; at most 15,000 are drawn, at random. Tokens
    outside the trust region are over-represented, as in the records. A figure without tokens says why.
    """
    if tokens.empty:
        return blank(_NO_RECORDS, publication)
    tokens = tokens[tokens["advantage"] != 0]
    if tokens.empty:
        return blank(_NO_ADVANTAGE, publication)
    if len(tokens) > _MAX_POINTS:
        tokens = tokens.sample(_MAX_POINTS, random_state=0)
    spread = float(np.quantile(tokens["advantage"].abs(), 0.98))
    with style.figure_style(publication) as plt:
        fig, axes = plt.subplots(2, 2, figsize=(5.5, 4.6) if publication else (11, 8), sharex="col", sharey="row")
        points: Any = None
        for i, (weight, ylabel) in enumerate(
            (("w_log", "weight on ∇log π:  w_log"), ("w_prob", "weight on ∇π:  w_prob = w_log/π"))
        ):
            for j, (x, xlabel) in enumerate((("ratio", "ratio r = π/π_old"), ("prob", "probability π"))):
                ax = axes[i, j]
                points = ax.scatter(
                    tokens[x],
                    tokens[weight],
                    c=tokens["advantage"],
                    cmap="coolwarm",
                    vmin=-spread,
                    vmax=spread,
                    s=9,
                    linewidth=0.2,
                    edgecolor="#666666",
                    rasterized=True,
                )
                scale_axis(ax, "x", tokens[x], log=True)
                scale_axis(ax, "y", tokens[weight], log=True)
                if i == 1:
                    ax.set_xlabel(xlabel)
                if j == 0:
                    ax.set_ylabel(ylabel)
                    low, high = method.trust_region
                    style.shade_trust_region(ax, 1 - low, 1 + high)
        _theory(axes[0, 0], tokens["ratio"], method)
        fig.colorbar(points, ax=axes, label="advantage A", shrink=0.6)
        fig.suptitle(f"{style.label(method.key)}: {len(tokens):,} sampled tokens")
        plt.close(fig)
        return fig


def _theory(ax, ratios: pd.Series, method: Method) -> None:
    """The curve of `method.weight` for A > 0 and A < 0, if it depends on the token's ratio alone."""
    if not method.has_curve():
        return
    log_ratio = torch.linspace(math.log(ratios.min()), math.log(ratios.max()), 400, dtype=torch.float64)[:, None]
    for advantage, colour, name in ((1.0, style.POSITIVE, "A > 0"), (-1.0, style.NEGATIVE, "A < 0")):
        sign = torch.tensor(advantage, dtype=torch.float64)
        common, rare = (method.weight(log_ratio + old, torch.full_like(log_ratio, old), sign) for old in (-5.0, -9.0))
        neighbours = method.weight(log_ratio.T, torch.zeros_like(log_ratio.T), sign).T
        if torch.allclose(common, rare) and torch.allclose(common, neighbours):
            ax.plot(log_ratio.exp(), common, color=colour, linewidth=1.2, label=f"the method's curve, {name}")
            ax.legend(loc="upper left")


def _name(run: Run, runs: list[Run]) -> str:
    same = [r for r in runs if r.config.method == run.config.method]
    return style.label(run.config.method) + (f" ({run.path.name})" if len(same) > 1 else "")


def weight_histograms(runs: list[Run], publication: bool = False):
    """The distribution of the weights of all sampled tokens on ∇log π and on ∇π, a line for each run.

    Records are weighed by the inverse of the probability that they were kept. A logarithmic axis cannot show weights
    of 0: the legend gives their share.
    """
    panels = (("w_log", "|w_log|, weight on ∇log π"), ("w_prob", "|w_prob|, weight on ∇π"))
    with style.figure_style(publication) as plt:
        fig, axes = plt.subplots(1, 2, figsize=(5.5, 2.4) if publication else (10, 3.8))
        for run in runs:
            tokens = run.tokens(required=False)
            if tokens.empty:
                continue
            counts = 1 / tokens["sampled"]
            nothing = float(counts[tokens["w_log"] == 0].sum() / counts.sum())
            label = _name(run, runs) + (f"  ({nothing:.1%} are 0)" if nothing else "")
            for ax, (weight, _) in zip(axes, panels, strict=True):
                size = tokens[weight].abs()
                if not size.any():
                    continue
                bins = np.geomspace(size[size > 0].min(), size.max() * 1.001, 50)
                share, edges = np.histogram(size, bins, weights=counts / counts.sum())
                ax.stairs(share, edges, **_stairs(style.line(run.config.method) | {"label": label}))
        for ax, (_, label) in zip(axes, panels, strict=True):
            scale = "log" if ax.patches else "linear"
            ax.set(xscale=scale, yscale=scale, xlabel=label)
        axes[0].set_ylabel("share of tokens")
        return finish(plt, fig, axes[0].patches, columns=3, empty="no weight other than 0 was recorded")


def boundary_weights(runs: list[Run], steps: int | None = None, names=None, publication: bool = False):
    """Where the methods disagree: w_prob of the sampled tokens past either boundary against π, a column for each run.

    Of all steps, or of the first `steps`; `names` are the titles of the columns.
    """
    if not runs:
        return blank("no runs to draw", publication)
    names = names or [_name(run, runs) for run in runs]
    with style.figure_style(publication) as plt:
        size = (5.5, 3.4) if publication else (3.4 * len(runs) + 0.6, 6)
        fig, axes = plt.subplots(2, len(runs), figsize=size, sharex=True, sharey="row", squeeze=False)
        for j, run in enumerate(runs):
            tokens = run.tokens(steps, required=False)
            for ax, (region, label) in zip(axes[:, j], _BOUNDARIES, strict=True):
                part = tokens[tokens["region"] == region]
                if part.empty:
                    say(ax, "no token there" if len(tokens) else _NO_RECORDS)
                ax.scatter(
                    part["prob"], part["w_prob"], s=9, alpha=0.5, color=style.colour(run.config.method), rasterized=True
                )
                zeros = float((part["w_prob"] == 0).mean()) if len(part) else 0.0
                ax.set_title(f"{len(part):,} tokens, {zeros:.0%} at 0", loc="right", fontsize="medium")
                scale_axis(ax, "x", part["prob"], log=True)
                if j == 0:
                    ax.set_ylabel(f"{label}\nw_prob")
            axes[0, j].set_title(f"{names[j]}\n")
            axes[1, j].set_xlabel("probability π")
        for row in axes:
            drawn = np.concatenate([ax.collections[0].get_offsets()[:, 1] for ax in row])
            scale_axis(row[0], "y", np.asarray(drawn), log=True, decades=12)  # only 0 looks like 0
        plt.close(fig)
        return fig


def _stairs(look: dict) -> dict:
    return {k: look[k] for k in ("color", "linestyle", "linewidth", "label")}


def by_rate(found: pd.DataFrame, scores: Sequence[str] = ("avg@8", "pass@8"), publication: bool = False):
    """Scores of short runs against their learning rate: a row of panels for each step, a dot for each run.

    `found` has method, lr, step and the scores. Methods at one rate stand beside each other.
    """
    steps, rates = sorted(found["step"].unique()), sorted(found["lr"].unique())
    methods = list(dict.fromkeys(found["method"]))
    with style.figure_style(publication) as plt:
        size = (5.5, 2.0 * len(steps)) if publication else (4.4 * len(scores), 2.7 * len(steps) + 0.5)
        fig, axes = plt.subplots(len(steps), len(scores), figsize=size, sharex=True, sharey=True, squeeze=False)
        for row, step in zip(axes, steps, strict=True):
            for ax, score in zip(row, scores, strict=True):
                for i, method in enumerate(methods):
                    part = found[(found["method"] == method) & (found["step"] == step)]
                    beside = part["lr"] * 1.06 ** (i - (len(methods) - 1) / 2)
                    look = {"color": style.colour(method), "label": style.label(method)}
                    ax.plot(beside, part[score], "os^DvP"[i % 6], markersize=5, **look)
                ax.set(xscale="log", ylim=(0, 1), title=f"{score} after {step} steps")
                ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
                ax.minorticks_off()
        for ax in axes[-1]:
            ax.set_xlabel("learning rate")
        return finish(plt, fig, axes[0, 0].get_lines(), columns=6)
