"""The tables of this folder: scores against the learning rate in each world; each method at its best, on fresh seeds.

python docs/results/sequence/make.py FOLDER [WORLD ...]     # keeps the rows of other worlds that FOLDER has
"""

import sys
import time
from pathlib import Path

import pandas as pd
import torch

from analysis import sequence
from analysis.exact import adjust, paired
from analysis.sequence import World
from dgpo.methods import get

WORLDS = {  # the scale of the start keeps its pass@32 between 0.03 and 0.35
    "base": World(),
    "2 tokens": World(length=2, start=0.35),
    "8 tokens": World(length=8, start=1.0),
    "4 words": World(vocabulary=4, start=0.3),
    "48 words": World(vocabulary=48, start=0.7),
    "1 epoch": World(epochs=1),
    "12 epochs": World(epochs=12),
    "1 step behind": World(behind=1),
    "4 steps behind": World(behind=4),
    "reward by share": World(reward="share"),
}
RATES, SCORE = (0.0025, 0.005, 0.01, 0.02, 0.04, 0.08), "pass@32"
HOT = 0.08  # from an earlier trial, not from these scores
METHODS = {
    "GRPO": get("grpo", dual_clip=None),
    "GPPO": get("gppo", eps_high=0.2, dual_clip=None),
    "CE-GPPO": get("ce_gppo", dual_clip=None),
    "CISPO": get("cispo"),
    "PG": get("pg"),
    "DGPO (1, 2)": get("dgpo", n=1, m=2),
    "DGPO (2, 2)": get("dgpo", n=2, m=2),
}
NAMES = {str(m): name for name, m in METHODS.items()}
TUNED_ON, FRESH = range(50), range(1000, 1050)


def last(frame):
    frame = frame[frame.step == frame.step.max()]
    return frame.assign(method=frame.name.map(NAMES)).drop(columns=["name", "step"])


def rates(world):
    """Mean and standard error of every method at every rate, over the seeds TUNED_ON."""
    found = last(sequence.run(sequence.grid(METHODS.values(), RATES), world, seeds=TUNED_ON, every=60))
    table = found.groupby(["method", "lr"])[["pass@1", SCORE, "entropy"]].agg(["mean", "sem"])
    table.columns = [" ".join(c).removesuffix(" mean") for c in table.columns]
    return table


def fresh(world, table):
    """Every run on the seeds FRESH, each method at its best rate and at HOT."""
    best = table[SCORE].unstack().idxmax(axis=1)
    both = {"best": [(m, best[name]) for name, m in METHODS.items()], "hot": [(m, HOT) for m in METHODS.values()]}
    return pd.concat(last(sequence.run(c, world, seeds=FRESH, every=60)).assign(setting=s) for s, c in both.items())


def compare(runs):
    """DGPO minus each other method in every world and setting, with p adjusted by Holm for all of these rows."""
    rows = []
    for (world, setting), part in runs.groupby(["world", "setting"], sort=False):
        scores = part.pivot(index="seed", columns="method", values=SCORE)
        for a in ("DGPO (1, 2)", "DGPO (2, 2)"):
            for b in (m for m in METHODS if m != a and (a, m) != ("DGPO (2, 2)", "DGPO (1, 2)")):
                d = (scores[a] - scores[b]).to_numpy()
                rows.append({"world": world, "setting": setting, "a": a, "b": b} | paired(d) | {"seeds": len(d)})
    return adjust(pd.DataFrame(rows))


def kept(folder, name, fresh_rows):
    """The rows of other worlds that a table of the folder has, and the new ones, in the order of WORLDS."""
    path = folder / name
    old = pd.read_csv(path) if path.exists() else fresh_rows[:0]
    both = pd.concat([old[~old.world.isin(fresh_rows.world)], fresh_rows])
    both = both.sort_values("world", key=lambda w: w.map(list(WORLDS).index), kind="stable")
    both.to_csv(path, index=False)
    return both


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, chosen = Path(sys.argv[1]), sys.argv[2:] or list(WORLDS)
    for name in chosen:
        start = time.process_time()
        table = rates(WORLDS[name])
        tuned = time.process_time() - start
        runs = fresh(WORLDS[name], table).assign(world=name)
        print(f"{name}: rates {tuned:.0f}, all {time.process_time() - start:.0f} CPU s", flush=True)
        kept(folder, "rates.csv", pd.concat({name: table}, names=["world"]).round(4).reset_index())
        runs = kept(folder, "fresh.csv", runs.round(5))
        compare(runs).round(5).to_csv(folder / "differences.csv", index=False)
