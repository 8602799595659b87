"""Read a sweep and say what it shows: a row for each run, paired comparisons over seeds, and findings in plain words.

    results = read("runs/sweeps/methods")
    comparison(results, "avg", reference="grpo")
    findings(results, reference="grpo")

A *line* is a level of the factor that chooses the method, a *panel* one combination of the levels of all other factors.
Lines are compared within a panel, seed by seed: runs of one seed have the same prompts and start from the same policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import exact, style
from analysis.runs import Run
from analysis.runs import read as read_run
from dgpo.config import Config
from dgpo.sweeps import table
from dgpo.sweeps.definition import Cell, Sweep
from dgpo.sweeps.execute import FINISHED

COLLAPSED = 0.5  # a run collapsed if its last held-out score is below this share of its best, or below its first
SPIKE = 5.0  # a gradient norm above this multiple of the run's median is a spike
_COMPARED = ("pairs", "equal", "difference", "low", "high", "p", "p_collapse", "p_holm", "p_collapse_holm")
_OF_STEPS = ("entropy", "reward", "max_w_log", "max_w_prob", "max_grad_norm", "spikes", "outside")
METRICS = {
    "avg": "held-out avg@{k} after the last step",
    "best": "best held-out avg@{k} of the run",
    "pass": "held-out pass@{k} after the last step",
    "entropy": "entropy at the last step (nats a token)",
    "reward": "mean reward of the last quarter of the steps",
}


class SweepError(ValueError):
    """The results lack what a comparison needs; the message names the runs."""


@dataclass(frozen=True)
class Results:
    """A sweep and its table; see `dgpo.sweeps.table.collect` for the columns."""

    sweep: Sweep
    frame: pd.DataFrame

    @cached_property
    def cells(self) -> dict[str, Cell]:
        return {cell.name: cell for cell in self.sweep.cells}

    @cached_property
    def configs(self) -> dict[str, Config]:
        """The settings of every cell, with the first seed."""
        return {name: self.sweep.config(cell, self.sweep.seeds[0]) for name, cell in self.cells.items()}

    @cached_property
    def factor(self) -> str:
        """The factor whose levels are the lines: the one that sets the method, or else the first."""
        first = next(iter(self.cells.values()))
        for name, values in self.sweep.factors.items():
            level = values.get(first.levels[name], {}) if isinstance(values, dict) else {name: None}
            if "method" in level:
                return name
        return next(iter(self.sweep.factors))

    @cached_property
    def lines(self) -> list[str]:
        return list(dict.fromkeys(cell.levels[self.factor] for cell in self.cells.values()))

    @cached_property
    def panels(self) -> list[str]:
        return list(dict.fromkeys(self.panel(name) for name in self.cells))

    def panel(self, cell: str) -> str:
        return ", ".join(level for name, level in self.cells[cell].levels.items() if name != self.factor)

    def cell(self, line: str, panel: str) -> str:
        """The name of a cell. Raises SweepError for an unknown line or panel."""
        for name, known in (("line", self.lines), ("panel", self.panels)):
            if (value := {"line": line, "panel": panel}[name]) not in known:
                raise SweepError(f"{name} {value!r} must be one of: {', '.join(map(repr, known))}")
        return next(n for n, c in self.cells.items() if c.levels[self.factor] == line and self.panel(n) == panel)

    def check(self, reference: str | None = None) -> None:
        """Raise SweepError for a single seed, which allows no interval over seeds, and for an unknown line."""
        if len(self.sweep.seeds) < 2:
            raise SweepError(f"a comparison needs at least two seeds; there is seed {self.sweep.seeds[0]} alone")
        if reference is not None and reference not in self.lines:
            raise SweepError(f"reference {reference!r} must be one of: {', '.join(self.lines)}")

    def method(self, line: str) -> str:
        return self.configs[self.cell(line, self.panels[0])].method

    @cached_property
    def labels(self) -> dict[str, str]:
        """The name of each line: its method, and the parameters in which lines of that method differ."""
        params = {line: self.configs[self.cell(line, self.panels[0])].method_params for line in self.lines}
        names = {}
        for line in self.lines:
            same = [params[other] for other in self.lines if self.method(other) == self.method(line)]
            differ = [name for name in same[0] if len({repr(p[name]) for p in same}) > 1]
            values = [f"{name.replace('_', ' ')} {_show(params[line][name])}" for name in differ]
            names[line] = style.label(self.method(line)) + (f" ({', '.join(values)})" if values else "")
        return names

    @property
    def k(self) -> int:
        """Completions of a held-out problem at an evaluation."""
        return next(iter(self.configs.values())).eval_samples

    @cached_property
    def runs(self) -> pd.DataFrame:
        """A row for each run: line, panel, seed, status, the metrics of `METRICS`, and its extremes.

        A run that diverged scores 0. `collapsed`: it diverged, or its last held-out avg@k is below half of its best
        or below its first. `spikes`: steps with a gradient norm above 5 times the run's median. `max_w_log`,
        `max_w_prob`: the largest of any token with an advantage other than 0, or of any token if the runs did not
        record that (see `applied`).
        """
        ended = {name: group.sort_values("step") for name, group in self.frame.groupby(["cell", "seed"])}
        order = [(cell, seed) for cell in self.cells for seed in self.sweep.seeds]
        rows = [self._row(*name, ended[name]) for name in order if name in ended]
        return pd.DataFrame(rows, columns=None if rows else ["line", "panel", "seed", *METRICS, *_OF_STEPS])

    @property
    def applied(self) -> bool:
        """Whether the runs recorded separately the largest weights of tokens with an advantage other than 0."""
        return "max_w_log/applied" in self.frame

    def _row(self, cell: str, seed: int, group: pd.DataFrame) -> dict:
        steps, scores = group[group["step"] > 0], group[f"eval/avg@{self.k}"].dropna()
        row = {"line": self.cells[cell].levels[self.factor], "panel": self.panel(cell), "seed": seed}
        row |= {"status": group["status"].iloc[0], "steps": int(group["step"].max())}
        row |= {"start": scores.iloc[0], "best": scores.max()}
        finished = row["status"] == FINISHED
        row["avg"] = scores.iloc[-1] if finished else 0.0
        row["pass"] = group[f"eval/pass@{self.k}"].dropna().iloc[-1] if finished else 0.0
        row["collapsed"] = not finished or row["avg"] < max(COLLAPSED * row["best"], row["start"])
        row |= dict.fromkeys(_OF_STEPS, np.nan)
        if len(steps):
            norms = steps["grad_norm/max"].dropna()
            row |= {
                "entropy": steps["entropy"].iloc[-1],
                "reward": steps["reward/mean"].tail(max(1, len(steps) // 4)).mean(),
                **{name: steps.get(f"{name}/applied", steps[name]).max() for name in ("max_w_log", "max_w_prob")},
                "max_grad_norm": norms.max(),
                "spikes": int((norms > SPIKE * norms.median()).sum()),
                "outside": float((1 - steps["tokens/IN"]).mean()),
            }
        return row

    def run(self, line: str, panel: str, seed: int) -> Run:
        """One run, with its token records."""
        return read_run(self.sweep.run_dir(self.cells[self.cell(line, panel)], seed))

    def steps(self, line: str, panel: str) -> pd.DataFrame:
        """The rows of a cell, all seeds."""
        return self.frame[self.frame["cell"] == self.cell(line, panel)]


def read(folder: str | Path, seeds: Sequence[int] | None = None) -> Results:
    """The runs of a sweep that have ended; `seeds` chooses the complete seeds of an unfinished sweep."""
    sweep = table.read(folder)
    frame = table.collect(sweep)
    if frame.empty:  # and without columns
        raise SweepError(f"{folder}: no run of this sweep has ended with a result yet; --report says what happened")
    if seeds is not None:
        if absent := [seed for seed in seeds if seed not in sweep.seeds]:
            raise SweepError(f"{folder} has no seed {absent[0]}; its seeds: {', '.join(map(str, sweep.seeds))}")
        sweep, frame = sweep.model_copy(update={"seeds": list(seeds)}), frame[frame["seed"].isin(seeds)]
    if frame.empty:
        raise SweepError(f"{folder}: no run of this sweep has ended yet")
    return Results(sweep, frame)


def scores(results: Results, metric: str, panel: str, lines: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """`{line: [seeds, 1]}` of a metric of `runs`, with the same seeds in the same order for every line.

    Raises SweepError, naming the runs that have not ended: a paired comparison needs every seed of every line.
    """
    frame = results.runs
    frame = frame[frame["panel"] == panel].set_index(["line", "seed"])
    wanted = [(line, seed) for line in lines or results.lines for seed in results.sweep.seeds]
    if missing := [f"{line} seed {seed}" for line, seed in wanted if (line, seed) not in frame.index]:
        where = f" of {panel}" if panel else ""
        raise SweepError(f"a paired comparison needs all seeds{where}; missing: {', '.join(missing)}")
    return {
        line: np.array([[frame.loc[(line, seed), metric]] for seed in results.sweep.seeds], float)
        for line in lines or results.lines
    }


def surviving(results: Results, metric: str, line: str, reference: str, panel: str) -> np.ndarray:
    """`line` minus `reference` in the seeds in which neither run collapsed, `[pairs]`."""
    values = scores(results, metric, panel, [line, reference])
    both = ~(_fell(results, panel, line) | _fell(results, panel, reference))
    return (values[line] - values[reference])[both, 0]


def _fell(results: Results, panel: str, line: str) -> np.ndarray:
    """Whether the run of each seed collapsed."""
    runs = results.runs
    chosen = runs[(runs["panel"] == panel) & (runs["line"] == line)].set_index("seed")["collapsed"]
    return chosen.loc[results.sweep.seeds].to_numpy(bool)


def comparison(results: Results, metric: str, reference: str, panel: str | None = None) -> pd.DataFrame:
    """A row for each line and panel: collapsed runs, the mean over seeds, and the paired difference to `reference`.

    The difference is over the `pairs` seeds in which neither run collapsed, with the exact sign-flip interval (95 %, of
    this comparison alone) and p; `p_collapse` is Fisher's for the collapses. NaN for fewer than two pairs. `p_holm` and
    `p_collapse_holm` are adjusted for all comparisons of the sweep, scores and collapses together.
    """
    results.check(reference)
    rows = []
    for where in results.panels:
        values = scores(results, metric, where)
        base = int(_fell(results, where, reference).sum())
        for line, mine in values.items():
            row = {"panel": where, "line": line, "method": results.labels[line], "seeds": len(mine)}
            row |= {"mean": float(mine.mean()), "collapsed": int(_fell(results, where, line).sum())}
            if line != reference:
                d = surviving(results, metric, line, reference, where)
                row |= {"pairs": len(d), "equal": bool((mine == values[reference]).all())}
                row["p_collapse"] = exact.fisher(row["collapsed"], len(mine), base, len(mine))
                row |= exact.paired(d)
            rows.append(row)
    frame = exact.adjust(pd.DataFrame(rows), ("p", "p_collapse"))
    frame = frame.reindex(columns=[*frame, *(c for c in _COMPARED if c not in frame)])
    return frame if panel is None else frame[frame["panel"] == panel].reset_index(drop=True)


def main_table(results: Results, reference: str) -> pd.DataFrame:
    """A row for each line and panel: collapsed runs, avg@k and pass@k after the last step, and differences to
    `reference`.

    Collapsed runs come with Clopper and Pearson's 95 % interval, in %; a difference with its sign-flip interval, the
    number of pairs of runs, and p adjusted by Holm for all comparisons of the sweep.
    """
    results.check(reference)
    rows, difference = [], f"avg@{results.k} − {results.labels[reference]}, of runs that did not"
    passed = {panel: scores(results, "pass", panel) for panel in results.panels}
    for _, a in comparison(results, "avg", reference).iterrows():
        fell = exact.proportion(int(a["collapsed"]), int(a["seeds"]))
        is_reference = a["line"] == reference
        rows.append(
            {
                "where": a["panel"],
                "method": a["method"],
                "collapsed": f"{int(a['collapsed'])} of {a['seeds']} [{100 * fell.low:.0f}, {100 * fell.high:.0f}]",
                "p": "–" if is_reference else f"{a['p_collapse_holm']:.2g}",
                f"avg@{results.k}": f"{a['mean']:.3f}",
                difference: "–" if is_reference else told(a),
                f"pass@{results.k}": f"{passed[a['panel']][a['line']].mean():.3f}",
            }
        )
    return pd.DataFrame(rows)


def rough_table(results: Results) -> pd.DataFrame:
    """For each line and panel, over all seeds: largest weights applied, gradient spikes, tokens outside, collapses."""
    frame = results.runs
    grouped = frame.groupby(["panel", "line"], sort=False)
    out = grouped[["max_w_log", "max_w_prob", "max_grad_norm"]].max()
    out["spikes a run"] = grouped["spikes"].mean()
    out["tokens outside %"] = 100 * grouped["outside"].mean()
    out["collapsed"] = grouped["collapsed"].sum().astype(str) + " of " + grouped["collapsed"].count().astype(str)
    out.index = pd.MultiIndex.from_tuples([(panel, results.labels[line]) for panel, line in out.index])
    return out


def findings(results: Results, reference: str, metric: str = "avg") -> list[str]:
    """What the runs support and what they do not, a sentence each.

    Two questions for each line and panel: does it collapse more or less often than `reference` (Fisher's exact test),
    and do the runs that did not collapse score higher or lower (exact sign flips)? A difference is claimed only if p,
    adjusted by Holm for all of these comparisons together, is below 0.05.
    """
    found = comparison(results, metric, reference)
    compared, what = found[found["line"] != reference], METRICS[metric].format(k=results.k)
    ref, said = results.labels[reference], []
    for panel in results.panels:
        where, mine = f"At {panel}: " if panel else "", compared[compared["panel"] == panel]
        base = found[(found["panel"] == panel) & (found["line"] == reference)].iloc[0]
        said += [where + sentence for sentence in _collapses(mine, base, ref)]
        said += [where + sentence for sentence in _scores(mine, what, ref, int(base["seeds"]))]
    if diverged := int((results.runs["status"] != FINISHED).sum()):
        said.append(f"{diverged} of the collapsed runs diverged, which counts as a score of 0.")
    seeds = len(results.sweep.seeds)
    said.append(
        f"{2 * len(compared)} comparisons, p adjusted by Holm for all of them. Before that, with {seeds} seeds "
        f"a score's p is at least {2 / 2**seeds:.2g} and a collapse's {exact.fisher(0, seeds, seeds, seeds):.2g}. "
        "That no difference is shown does not mean that there is none."
    )
    return said


def _collapses(mine: pd.DataFrame, base: pd.Series, ref: str) -> list[str]:
    fell = [row for _, row in mine.iterrows() if row["collapsed"]]
    seeds = int(base["seeds"])
    if not fell and not base["collapsed"]:
        return [f"none of {seeds * (len(mine) + 1)} runs collapsed."]
    listed = [f"{row['method']} {int(row['collapsed'])} of {seeds} (p {row['p_collapse_holm']:.2g})" for row in fell]
    listed.insert(0, f"{ref} {int(base['collapsed'])} of {seeds}")
    said = [f"runs that collapsed: {', '.join(listed)}."]
    for more, word in ((True, "more"), (False, "less")):
        shown = [
            r["method"]
            for _, r in mine.iterrows()
            if r["p_collapse_holm"] < 0.05 and (r["collapsed"] > base["collapsed"]) == more
        ]
        if shown:
            said.append(f"{', '.join(shown)} collapse{'s' * (len(shown) == 1)} {word} often than {ref}.")
    return said


def _scores(mine: pd.DataFrame, what: str, ref: str, seeds: int) -> list[str]:
    said = []
    shown = mine[mine["p_holm"] < 0.05]
    for side, rows in (("above", shown[shown["difference"] > 0]), ("below", shown[shown["difference"] < 0])):
        if len(rows):
            told_all = "; ".join(f"{row['method']}: {told(row)}" for _, row in rows.iterrows())
            said.append(f"{what} is {side} that of {ref} for {told_all}.")
    if same := [row["method"] for _, row in mine.iterrows() if row["equal"]]:
        said.append(f"{what} is the same number as that of {ref} in all {seeds} seeds for {', '.join(same)}.")
    silent = mine[~mine["equal"] & ~(mine["p_holm"] < 0.05)]
    if few := [row["method"] for _, row in silent.iterrows() if row["pairs"] < 2]:
        said.append(f"too few runs survived to compare {what} with {ref} for {', '.join(few)}.")
    if open_ := [row["method"] for _, row in silent.iterrows() if row["pairs"] >= 2]:
        said.append(f"with {seeds} seeds no difference in {what} to {ref} is shown for {', '.join(open_)}.")
    return said


def save(
    results: Results, figures: Mapping[str, Figure], tables: Mapping[str, pd.DataFrame], found: Sequence[str]
) -> Path:
    """Write figures (PNG), tables (CSV), all runs (runs.csv) and findings into `figures/` of the sweep's folder."""
    target = style.save(results.sweep.path, figures)
    for name, frame in {**tables, "runs": results.runs}.items():
        frame.to_csv(target / f"{name}.csv", index=isinstance(frame.index, pd.MultiIndex), float_format="%.6g")
    (target / "findings.md").write_text("".join(f"- {sentence}\n" for sentence in found))
    return target


def told(row: pd.Series) -> str:
    """A difference with its interval, the pairs of runs it is over and its adjusted p."""
    if not row["pairs"] >= 2:
        return f"{int(row['pairs'])} pairs"
    ends = "−∞ to ∞" if np.isinf(row["low"]) else f"{row['low']:+.3f} to {row['high']:+.3f}"
    return f"{row['difference']:+.3f} ({ends}; {int(row['pairs'])} pairs, p {row['p_holm']:.2g})"


def _show(value) -> str:
    return "off" if value is None else f"{value:g}"
