"""Bandits at every method's own learning rate: score against rate, then each method at its best on fresh seeds.

    found = against_rate(methods, worlds, np.geomspace(0.03, 3, 7), seeds=100, steps=200)
    figure(found)
    at_best(methods, worlds, found, seeds=400, steps=200)

A comparison at one shared rate says more about the rate than about the methods.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis import bandit, exact, stats, style
from analysis.bandit import Setting
from analysis.landscape import key_of, resolve_all
from analysis.plots import finish, looks_of

_FRESH = 1_000  # added to the seed for fresh runs: the first ones chose the rates


def against_rate(methods, worlds: Sequence[Setting], rates, *, seeds: int, steps: int, seed: int = 0) -> pd.DataFrame:
    """Cumulative regret of every method in every world at every rate: `world method name lr mean error`.

    `error` is the standard error over seeds. Methods, worlds and rates share problems and random numbers.
    """
    chosen, rates = resolve_all(methods), [float(rate) for rate in rates]
    settings = [replace(world, name=f"{world.name} {lr:g}", lr=lr) for world in worlds for lr in rates]
    runs = bandit.run(chosen, settings, seeds=seeds, steps=steps, points=2, seed=seed)
    final = runs.data["cumulative_regret"][..., -1]  # [methods, worlds × rates, seeds]
    places = [(world.name, lr) for world in worlds for lr in rates]
    rows = [
        (world, key_of(m), str(m), lr, final[i, j].mean(), final[i, j].std(ddof=1) / seeds**0.5)
        for i, m in enumerate(chosen)
        for j, (world, lr) in enumerate(places)
    ]
    return pd.DataFrame(rows, columns=["world", "method", "name", "lr", "mean", "error"])


def best(found: pd.DataFrame) -> pd.DataFrame:
    """The rows of `against_rate` with the least regret for each world and method."""
    return found.loc[found.groupby(["world", "name"], sort=False)["mean"].idxmin()]


def at_best(
    methods, worlds: Sequence[Setting], found: pd.DataFrame, *, seeds: int, steps: int, reference="grpo", seed: int = 0
) -> pd.DataFrame:
    """Each method at its best rate, on fresh seeds, minus `reference` at its own, seed by seed: below 0 is better.

    `lr mean difference low high p`: the interval is a 95 % bootstrap over seeds, each by itself; p a sign-flip test,
    adjusted by Holm over all rows of the table.
    """
    chosen, rng, rows = resolve_all(methods), np.random.default_rng(seed), {}
    rates = best(found).set_index(["world", "name"])["lr"]
    for world in worlds:
        scores = {}
        for lr in sorted({rates[world.name, str(m)] for m in chosen}):
            tuned = [m for m in chosen if rates[world.name, str(m)] == lr]
            runs = bandit.run(tuned, replace(world, lr=lr), seeds=seeds, steps=steps, points=2, seed=seed + _FRESH)
            scores |= {str(m): runs.data["cumulative_regret"][i, 0, :, -1] for i, m in enumerate(tuned)}
        base = next(scores[str(m)] for m in chosen if key_of(m) == reference)
        for m in chosen:
            row = {"lr": rates[world.name, str(m)], "mean": scores[str(m)].mean()}
            if key_of(m) != reference:
                d = stats.paired_difference(scores[str(m)][:, None], base[:, None], rng)
                row |= {"difference": d.value, "low": d.low, "high": d.high}
                row["p"] = exact.sign_flip(scores[str(m)] - base)
            rows[world.name, style.label(key_of(m))] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    adjusted = exact.holm(table["p"].dropna().to_dict())
    return table.assign(p=pd.Series(adjusted))


def figure(found: pd.DataFrame, publication: bool = False):
    """Regret against learning rate, a panel for each world. Bands: two standard errors; dots: each method's best."""
    worlds, tops = list(dict.fromkeys(found["world"])), best(found)
    with style.figure_style(publication) as plt:
        size = (5.5, 2.2) if publication else (3.7 * len(worlds), 3.3)
        fig, axes = plt.subplots(1, len(worlds), figsize=size, sharey=True, squeeze=False)
        handles = {}
        for ax, world in zip(axes[0], worlds, strict=True):
            part = found[found["world"] == world]
            keys = part.drop_duplicates("name")
            for (name, rows), look in zip(
                part.groupby("name", sort=False), looks_of(list(keys["method"]), list(keys["name"])), strict=True
            ):
                handles[name] = ax.plot(rows["lr"], rows["mean"], **look)[0]
                low, high = rows["mean"] - 2 * rows["error"], rows["mean"] + 2 * rows["error"]
                ax.fill_between(rows["lr"], low, high, color=look["color"], alpha=0.12, linewidth=0)
                top = tops[(tops["world"] == world) & (tops["name"] == name)]
                ax.plot(top["lr"], top["mean"], "o", color=look["color"], markersize=4)
            ax.set(title=world, xscale="log", yscale="log", xlabel="learning rate")
        axes[0, 0].set_ylabel("cumulative regret")
        return finish(plt, fig, list(handles.values()))
