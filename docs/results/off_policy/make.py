"""The tables of this folder: updates a batch, one step behind, n × m and two sizes, each method at its best rate.

python docs/results/off_policy/make.py runs/sweeps    # runs.csv from the sweeps there, comparisons.csv, figures

Every line is compared with GRPO of the same experiment and place, seed by seed: collapses by Fisher, scores of pairs
that survived by sign flips. p is adjusted by Holm for all comparisons of an experiment.
"""

import re
import sys
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pandas as pd

from analysis import style, sweeps
from analysis.exact import adjust, fisher, paired, proportion
from analysis.plots import finish

HERE = Path(__file__).parent
COLUMNS = ["experiment", "line", "panel", "seed", "status", "start", "avg", "best", "pass", "entropy", "collapsed"]
SWEEPS = ("updates", "behind", "behind_fresh", "grid", "sizes")
EXPERIMENTS = ("updates", "again", *SWEEPS[1:])  # "again": best.yaml with another warm-up
METHOD = re.compile(r"([a-z_]*[a-z])(?:_n([\d.]+)_m(\d))?(\+dual_clip)?$")
AT_16 = "num_minibatches=16"


def gather(folder: Path, kept: pd.DataFrame) -> pd.DataFrame:
    """A row for each run: of the sweeps in `folder`, and of those that are not there as they were kept."""
    parts = []
    for name in SWEEPS:
        there = (folder / name / "sweep.yaml").exists()
        rows = sweeps.read(folder / name).runs if there else kept[kept["experiment"] == name]
        parts.append(rows.assign(experiment=name)[COLUMNS])
    return pd.concat(parts, ignore_index=True)


def compare(runs: pd.DataFrame, name: str) -> pd.DataFrame:
    """A row for each line and panel of an experiment."""
    mine = of_grid(runs) if name == "grid" else runs[runs["experiment"] == {"again": "updates"}.get(name, name)]
    if name in ("updates", "again"):  # at 1 update no clip acts
        mine = mine[mine["panel"].isin([AT_16] if name == "again" else ["num_minibatches=4", "num_minibatches=64"])]
    rows = []
    for panel, part in mine.groupby("panel", sort=False):
        by_line = {line: group.set_index("seed").sort_index() for line, group in part.groupby("line", sort=False)}
        base = by_line["grpo"]
        for line, own in by_line.items():
            fell = int(own["collapsed"].sum())
            row = {"experiment": name, "panel": panel, "line": line, "seeds": len(own), "avg": own["avg"].mean()}
            row |= {"pass": own["pass"].mean(), "collapsed": fell}
            row |= dict(zip(("collapsed_low", "collapsed_high"), astuple(proportion(fell, len(own)))[1:], strict=True))
            if line != "grpo":
                d = (own["avg"] - base["avg"])[~own["collapsed"] & ~base["collapsed"]].to_numpy()
                row |= {"pairs": len(d), "p_collapse": fisher(fell, len(own), int(base["collapsed"].sum()), len(base))}
                row |= paired(d)
            rows.append(row)
    return adjust(pd.DataFrame(rows), ("p", "p_collapse"))


def of_grid(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of n × m and of GRPO; three of the thirteen lines are those of `updates` at 16."""
    others = runs["line"].isin(["grpo", "dgpo_n1_m2", "dgpo_n2_m2"]) & (runs["panel"] == AT_16)
    return runs[(runs["experiment"] == "grid") | (others & (runs["experiment"] == "updates"))].assign(panel="")


def trends(runs: pd.DataFrame) -> pd.DataFrame:
    """The slope of avg@16 in log2 n (at m 1, 2, 4) and in log2 m, fitted to each seed's twelve runs, over seeds."""
    both = of_grid(runs)[lambda table: table["line"] != "grpo"]
    n, m = (np.log2(both["line"].str.extract(METHOD)[i].astype(float)) for i in (1, 2))
    table, rows = both.assign(n=n - n.mean(), m=m - m.mean()), []
    for name in ("n", "m"):
        slopes = table.groupby("seed").apply(lambda g, x=name: (g[x] * g["avg"]).sum() / (g[x] ** 2).sum())
        rows.append({"doubling": name} | paired(slopes))
    return pd.DataFrame(rows).rename(columns={"difference": "slope"})


def along(runs: pd.DataFrame):
    """avg@16 after 24 steps over updates a batch: every run (cross if collapsed) and the mean over seeds."""
    there = runs[runs["experiment"] == "updates"]
    there = there.assign(x=there["panel"].str.removeprefix("num_minibatches=").astype(int))
    groups = (["grpo", "dgpo_n1_m2", "dgpo_n2_m2", "pg"], ["grpo", "cispo", "gppo", "ce_gppo"])
    with style.figure_style(False) as plt:
        fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True)
        for ax, lines in zip(axes, groups, strict=True):
            for i, line in enumerate(lines):
                own, colour = there[there["line"] == line], style.colour(METHOD.match(line)[1])
                mean = own.groupby("x")["avg"].mean()
                dash = "--" if line == "dgpo_n2_m2" else "-"
                ax.plot(mean.index, mean, dash, color=colour, label=label(line))
                for mark, chosen in (("o", own[~own["collapsed"]]), ("x", own[own["collapsed"]])):
                    ax.plot(chosen["x"] * 1.04 ** (i - 1.5), chosen["avg"], mark, color=colour, markersize=3, alpha=0.6)
            ax.set_xscale("log", base=2)
            ax.set_xticks([1, 4, 16, 64], ["1", "4", "16", "64"])
            ax.set(xlabel="updates of each batch of 128 completions", ylim=(-0.03, 1))
            ax.legend(fontsize=8, loc="lower left")
        axes[0].set_ylabel("held-out avg@16 after 24 steps")
        return finish(plt, fig)


def forest(found: pd.DataFrame):
    """A row for each comparison of an experiment: the difference to GRPO with its 95 % interval; filled: p (Holm) below
    0.05; beside it the runs that collapsed, where any did."""
    panels = list(dict.fromkeys(found["panel"]))
    lines = sorted(set(found["line"]) - {"grpo"})  # DGPO by n and m
    with style.figure_style(False) as plt:
        size = (2.4 + 4 * len(panels), 1.1 + 0.3 * len(lines))
        fig, axes = plt.subplots(1, len(panels), figsize=size, sharex=True, sharey=True, squeeze=False)
        for ax, panel in zip(axes[0], panels, strict=True):
            for row in found[(found["panel"] == panel) & (found["line"] != "grpo")].itertuples():
                colour, place = style.colour(METHOD.match(row.line)[1]), lines.index(row.line)
                if row.collapsed:
                    text = f"{row.collapsed} of {row.seeds} collapsed"
                    ax.text(
                        1, place - 0.12, text, transform=ax.get_yaxis_transform(), ha="right", va="bottom", fontsize=8
                    )
                if row.pairs >= 2:
                    if np.isfinite([row.low, row.high]).all():  # else too few pairs for any interval
                        ax.hlines(place, row.low, row.high, color=colour)
                    fill = colour if row.p_holm < 0.05 else "white"
                    ax.scatter(row.difference, place, s=26, zorder=3, edgecolors=colour, facecolors=fill)
            ax.axvline(0, color="#888888", linewidth=1)
            ax.set(xlabel="avg@16 minus GRPO's, of pairs that survived", title=title(panel))
        axes[0, 0].set_yticks(range(len(lines)), [label(line) for line in lines])
        axes[0, 0].set_ylim(len(lines) - 0.5, -0.7)
        return finish(plt, fig)


def label(line: str) -> str:
    """`dgpo_n1_m2` as DGPO (1, 2)."""
    key, n, m, _ = METHOD.match(line).groups()
    return style.label(key) + (f" ({n}, {m})" if n else "")


def title(panel: str) -> str:
    return re.sub(r"num_minibatches=(\d+)", r"\1 updates a batch", panel).replace("_", " ")


def main(folder: str) -> None:
    path = HERE / "runs.csv"
    kept = pd.read_csv(path, dtype={"panel": str}, keep_default_na=False) if path.exists() else pd.DataFrame()
    runs = gather(Path(folder), kept)
    runs.to_csv(path, index=False, float_format="%.4g")
    tables = {name: compare(runs, name) for name in EXPERIMENTS}
    pd.concat(tables.values()).to_csv(HERE / "comparisons.csv", index=False, float_format="%.3g")
    trends(runs).to_csv(HERE / "trends.csv", index=False, float_format="%.3g")
    for name, found in tables.items():
        forest(found).savefig(HERE / f"{name}.png")
    along(runs).savefig(HERE / "along.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
