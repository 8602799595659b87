"""The tables of this folder: the policies of countdown_best.yaml on problems that nothing was fitted to.

python docs/results/countdown/make.py runs/sweeps/countdown_best FOLDER    # resumes; fresh.csv, differences.csv, .png

The warm-up was fitted to the first 64 held-out problems. Here the next 192 are tried, with 64 samples each; the policy
before training with 256, since every difference to it shares its noise.
"""

import re
import sys
from pathlib import Path

import pandas as pd

from analysis import style
from analysis.exact import adjust, paired
from analysis.plots import finish
from dgpo import config as configs
from dgpo.evaluation.heldout import evaluate
from dgpo.model import tiny
from dgpo.model.loading import load_lm
from dgpo.model.policy import Policy
from dgpo.rollout import Sampling, TransformersSampler
from dgpo.tasks.countdown import CountdownTask

SEEN, NEW, SAMPLES = 64, 192, 64
SCORES = ("avg", "pass@16", "pass@64", "coverage")
TESTED = ("avg", "pass@64")
METHOD = re.compile(r"([a-z_]*[a-z])(?:_n(\d)_m(\d))?(|\+kl|\+dual_clip|\+low)$")


class NewProblems(CountdownTask):
    def __init__(self, difficulty, seed):
        super().__init__(difficulty, seed, SEEN + NEW)
        self.heldout = self.heldout[SEEN:]


def measure(path, config, samples=SAMPLES):
    """The scores of one checkpoint on the new problems."""
    lm, tokenizer = load_lm(path)
    sampler = TransformersSampler(Policy(lm), tokenizer, config.generation_batch_size)
    sampling = Sampling(config.max_new_tokens, config.eval_temperature)
    task = NewProblems(config.difficulty, config.seed)
    found = evaluate(sampler, tokenizer, task, samples, sampling).metrics()
    named = {"avg": f"avg@{samples}", "pass@16": "pass@16", "pass@64": "pass@64", "coverage": f"coverage@{SAMPLES}"}
    return {score: found.get(f"eval/{name}") for score, name in named.items()}  # no coverage of more samples


def fresh(sweep, before):
    """A row for each run, those of `before` kept, and one for the policy before training."""
    rows = before.to_dict("records")
    done = {(row["line"], row["seed"]) for row in rows}
    for run in sorted(sweep.glob("*/seed_*/policy")):
        line, seed, config = (
            run.parts[-3],
            int(run.parts[-2].removeprefix("seed_")),
            configs.read_run(run.parent / "config.yaml"),
        )
        if ("start", 0) not in done:
            start = tiny.checkpoint(config.tiny, task=CountdownTask)
            rows.append({"line": "start", "lr": None, "seed": 0} | measure(start, config, 4 * SAMPLES))
            done.add(("start", 0))
        if (line, seed) not in done:
            rows.append({"line": line, "lr": config.lr, "seed": seed} | measure(run, config))
        yield pd.DataFrame(rows)


def compare(table):
    """Differences to GRPO, at its own best rate and at the lower one, and to the start; p by Holm for all rows."""
    rows, start = [], table[table["line"] == "start"].iloc[0]
    runs = table[table["line"] != "start"]
    lines, low = runs["line"].unique(), runs.loc[runs["lr"] == runs["lr"].min(), "line"].unique()
    pairs = [(line, "grpo") for line in lines if line != "grpo"]
    pairs += [(line, "grpo+low") for line in low if line != "grpo+low"] + [("dgpo_n1_m2+kl", "grpo+kl")]
    pairs += [(line, "start") for line in ("grpo", "grpo+low", "grpo+kl", "dgpo_n1_m2+kl")]
    for score in TESTED:
        scores = runs.pivot(index="seed", columns="line", values=score)
        for a, b in pairs:
            d = (scores[a] - (start[score] if b == "start" else scores[b])).to_numpy()
            rows.append({"score": score, "a": a, "b": b} | paired(d) | {"seeds": len(d)})
    return adjust(pd.DataFrame(rows))


def figure(table):
    """Each line minus GRPO, avg@64 and pass@64, with 95 % intervals; filled: p (Holm) below 0.05."""
    rows = table[table["b"] == "grpo"]
    lines = list(dict.fromkeys(rows["a"]))
    with style.figure_style(False) as plt:
        fig, axes = plt.subplots(1, len(TESTED), figsize=(9, 1 + 0.32 * len(lines)), sharey=True)
        for ax, score in zip(axes, TESTED, strict=True):
            for row in rows[rows["score"] == score].itertuples():
                colour, place = style.colour(METHOD.match(row.a)[1]), lines.index(row.a)
                ax.hlines(place, row.low, row.high, color=colour)
                fill = colour if row.p_holm < 0.05 else "white"
                ax.scatter(row.difference, place, s=26, zorder=3, edgecolors=colour, facecolors=fill)
            ax.axvline(0, color="#888888", linewidth=1)
            ax.set(xlabel=f"{score.replace('avg', 'avg@64')} minus GRPO's, new problems")
        axes[0].set_yticks(range(len(lines)), [label(line) for line in lines])
        axes[0].set_ylim(len(lines) - 0.5, -0.5)
        return finish(plt, fig)


def label(line):
    """`dgpo_n1_m2+kl` as DGPO (1, 2), KL 0.1."""
    key, n, m, rest = METHOD.match(line).groups()
    more = {"+kl": ", KL 0.1", "+dual_clip": ", dual clip 3", "+low": ", lr 6.3e-5", "": ""}[rest]
    return style.label(key) + (f" ({n}, {m})" if n else "") + more


def main(sweep, folder):
    path = Path(folder) / "fresh.csv"
    before = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["line", "lr", "seed", *SCORES])
    for table in fresh(Path(sweep), before):
        table.to_csv(path, index=False, float_format="%.5g")
    found = compare(pd.read_csv(path))
    found.to_csv(Path(folder) / "differences.csv", index=False, float_format="%.3g")
    figure(found).savefig(Path(folder) / "differences.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
