"""The tables of this folder: scores against the learning rate; each method at its best and at a hot one, fresh seeds.

python docs/results/sequence/make.py FOLDER
"""

import sys
import time
from pathlib import Path

import pandas as pd
import torch

from analysis import sequence
from analysis.exact import holm, sign_flip, sign_flip_interval
from dgpo.methods import get

RATES, HOT, SCORE = (0.005, 0.01, 0.02, 0.04, 0.08, 0.16), 0.08, "pass@32"
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
TUNED_ON, FRESH = range(12), range(1000, 1050)


def last(frame):
    frame = frame[frame.step == frame.step.max()]
    return frame.assign(method=frame.name.map(NAMES)).drop(columns=["name", "step"])


def compare(fresh):
    rows = []
    for setting, of_setting in fresh.groupby("setting"):
        scores = of_setting.pivot(index="seed", columns="method", values=SCORE)
        for a in ("DGPO (1, 2)", "DGPO (2, 2)"):
            for b in (m for m in METHODS if m != a and (a, m) != ("DGPO (2, 2)", "DGPO (1, 2)")):
                d = (scores[a] - scores[b]).to_numpy()
                found = sign_flip_interval(d)
                row = {"setting": setting, "a": a, "b": b, "difference": found.value, "low": found.low}
                rows.append(row | {"high": found.high, "seeds": len(d), "p": sign_flip(d)})
    adjusted = holm({i: row["p"] for i, row in enumerate(rows)})
    return pd.DataFrame([row | {"p_holm": adjusted[i]} for i, row in enumerate(rows)])


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, start = Path(sys.argv[1]), time.process_time()
    swept = last(sequence.run(sequence.grid(METHODS.values(), RATES), seeds=TUNED_ON, every=60))
    table = swept.groupby(["method", "lr"])[["pass@1", SCORE, "entropy"]].agg(["mean", "sem"])
    table.columns = [" ".join(c).removesuffix(" mean") for c in table.columns]
    table.round(4).to_csv(folder / "rates.csv")
    print(f"{time.process_time() - start:.0f} CPU s", table[SCORE].unstack().round(3), sep="\n", flush=True)
    best = table[SCORE].unstack().idxmax(axis=1)
    both = {"best": [(m, best[name]) for name, m in METHODS.items()], "hot": [(m, HOT) for m in METHODS.values()]}
    found = [last(sequence.run(c, seeds=FRESH, every=60)).assign(setting=s) for s, c in both.items()]
    fresh = pd.concat(found)
    fresh.round(5).to_csv(folder / "fresh.csv", index=False)
    compare(fresh).round(5).to_csv(folder / "differences.csv", index=False)
    print(f"{time.process_time() - start:.0f} CPU s")
    print(fresh.groupby(["setting", "method", "lr"])[["pass@1", SCORE, "entropy"]].mean().round(4))
    print(compare(fresh).round(4).to_string())
