"""Read a sweep and say what it shows: a row a run, paired comparisons over seeds, and findings in plain words.

    results = read("runs/sweeps/methods")
    comparison(results, "avg", reference="grpo")
    findings(results, reference="grpo")

A *line* is a level of the factor that chooses the method, a *panel* one combination of the levels of all other factors.
Lines are compared within a panel, seed by seed: the same seed has the same prompts and begins from the same policy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import stats, style
from analysis.runs import Run
from analysis.runs import read as read_run
from dgpo.config import Config
from dgpo.sweeps import table
from dgpo.sweeps.definition import Cell, Sweep
from dgpo.sweeps.execute import FINISHED

COLLAPSED = 0.5  # a run whose last held-out score is below this share of its best, or below its first, has collapsed
SPIKE = 5.0  # a gradient norm above this multiple of the run's median is a spike
_OF_STEPS = ("entropy", "reward", "max_w_log", "max_w_prob", "max_grad_norm", "spikes", "outside")
METRICS = {
    "avg": "held-out avg@{k} after the last step",
    "best": "best held-out avg@{k} of the run",
    "pass": "held-out pass@{k} after the last step",
    "entropy": "entropy at the last step (nats a token)",
    "reward": "mean reward of the last quarter of the steps",
}


class SweepError(ValueError):
    """Results that lack what a comparison needs; the message names the runs."""


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
        """The factor whose levels are lines: the one that sets the method, or else the first."""
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
        """The name of a cell. Raises SweepError for a line or a panel that there is not."""
        for name, known in (("line", self.lines), ("panel", self.panels)):
            if (value := {"line": line, "panel": panel}[name]) not in known:
                raise SweepError(f"{name} {value!r} must be one of: {', '.join(map(repr, known))}")
        return next(n for n, c in self.cells.items() if c.levels[self.factor] == line and self.panel(n) == panel)

    def check(self, reference: str | None = None) -> None:
        """Raise SweepError for a single seed, from which no interval over seeds can be had, and an unknown line."""
        if len(self.sweep.seeds) < 2:
            raise SweepError(f"a comparison needs at least two seeds; there is seed {self.sweep.seeds[0]} alone")
        if reference is not None and reference not in self.lines:
            raise SweepError(f"reference {reference!r} must be one of: {', '.join(self.lines)}")

    def method(self, line: str) -> str:
        return self.configs[self.cell(line, self.panels[0])].method

    @cached_property
    def labels(self) -> dict[str, str]:
        """What a line is called: its method, and the parameters in which lines of that method differ."""
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
        """A row a run: line, panel, seed, status, the metrics of `METRICS`, and how rough the way was.

        A run that diverged scores 0. `collapsed`: it diverged, or its last held-out avg@k is below half of its best or
        below that of the start.
        `spikes`: steps with a gradient norm above 5 times the run's median. `max_w_log`, `max_w_prob`: largest of a
        token whose advantage is not 0, or of any where the runs did not record that (see `applied`).
        """
        ended = {name: group.sort_values("step") for name, group in self.frame.groupby(["cell", "seed"])}
        order = [(cell, seed) for cell in self.cells for seed in self.sweep.seeds]
        rows = [self._row(*name, ended[name]) for name in order if name in ended]
        return pd.DataFrame(rows, columns=None if rows else ["line", "panel", "seed", *METRICS, *_OF_STEPS])

    @property
    def applied(self) -> bool:
        """Whether the runs recorded their largest weights apart for tokens whose advantage is not 0."""
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
    """What has ended of the sweep in a folder; of an unfinished one `seeds` chooses those that have."""
    sweep = table.read(folder)
    frame = table.collect(sweep)
    if seeds is not None:
        if absent := [seed for seed in seeds if seed not in sweep.seeds]:
            raise SweepError(f"{folder} has no seed {absent[0]}; its seeds: {', '.join(map(str, sweep.seeds))}")
        sweep, frame = sweep.model_copy(update={"seeds": list(seeds)}), frame[frame["seed"].isin(seeds)]
    if frame.empty:
        raise SweepError(f"{folder}: no run of this sweep has ended yet")
    return Results(sweep, frame)


def scores(results: Results, metric: str, panel: str, lines: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """`{line: [seeds, 1]}` of a metric of `runs`, the same seeds in the same order for all.

    Raises SweepError that names the runs which have not ended: a paired comparison needs every seed of every line.
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


def comparison(results: Results, metric: str, reference: str, panel: str | None = None) -> pd.DataFrame:
    """A row a line and panel: mean over seeds, and its paired difference to `reference`, with two 95 % intervals.

    In square brackets the bootstrap over seeds, in round ones Student's t, which is the one to believe with few seeds:
    of five normal differences the former covers the truth in 84 % of cases, not in 95.
    """
    results.check(reference)
    rows, rng = [], np.random.default_rng(0)
    for where in results.panels if panel is None else [panel]:
        values = scores(results, metric, where)
        for line, mine in values.items():
            row = {"panel": where, "line": line, "method": results.labels[line], "seeds": len(mine)}
            row |= {"mean": float(mine.mean()), "mean_interval": _interval(stats.mean(mine, rng))}
            if line != reference:
                boot, student = (
                    stats.paired_difference(mine, values[reference], rng),
                    stats.paired_t(mine, values[reference]),
                )
                row |= {"difference": boot.value, "low": boot.low, "high": boot.high}
                row |= {"t_low": student.low, "t_high": student.high}
                row["wins"] = int((mine > values[reference]).sum())
            rows.append(row)
    return pd.DataFrame(rows)


def main_table(results: Results, reference: str) -> pd.DataFrame:
    """Per line and panel: avg@k and pass@k after the last step, difference of avg@k to `reference`, collapsed runs."""
    frame, rows = results.runs, []
    for panel in results.panels:
        avg, passed = comparison(results, "avg", reference, panel), comparison(results, "pass", reference, panel)
        for (_, a), (_, p) in zip(avg.iterrows(), passed.iterrows(), strict=True):
            mine = frame[(frame["line"] == a["line"]) & (frame["panel"] == panel)]
            difference = "–" if a["line"] == reference else both(a)
            rows.append(
                {
                    "where": panel,
                    "method": a["method"],
                    f"avg@{results.k}": f"{a['mean']:.3f} {a['mean_interval']}",
                    f"avg@{results.k} − {results.labels[reference]}": difference,
                    f"pass@{results.k}": f"{p['mean']:.3f} {p['mean_interval']}",
                    "collapsed": f"{int(mine['collapsed'].sum())} of {len(mine)}",
                }
            )
    return pd.DataFrame(rows)


def rough_table(results: Results) -> pd.DataFrame:
    """Per line and panel, over all seeds: largest weights ever applied, gradient spikes, tokens outside, collapses."""
    frame = results.runs
    grouped = frame.groupby(["panel", "line"], sort=False)
    out = grouped[["max_w_log", "max_w_prob", "max_grad_norm"]].max()
    out["spikes a run"] = grouped["spikes"].mean()
    out["tokens outside %"] = 100 * grouped["outside"].mean()
    out["collapsed"] = grouped["collapsed"].sum().astype(str) + " of " + grouped["collapsed"].count().astype(str)
    out.index = pd.MultiIndex.from_tuples([(panel, results.labels[line]) for panel, line in out.index])
    return out


def findings(results: Results, reference: str, metric: str = "avg") -> list[str]:
    """What the runs support and what not, a sentence each.

    A method is said to differ from `reference` only where Student's paired interval, at 95 % over all comparisons of
    the sweep together (Bonferroni), excludes 0. Collapses are counts of runs, without a claim beyond them.
    """
    results.check(reference)
    count = len(results.panels) * (len(results.lines) - 1)
    confidence = 1 - 0.05 / max(count, 1)
    what = METRICS[metric].format(k=results.k)
    ref, frame, said = results.labels[reference], results.runs, []
    for panel in results.panels:
        where = f"At {panel}: " if panel else ""
        values = scores(results, metric, panel)
        same, open_, kinds = [], [], {"above": [], "below": []}
        for line in values:
            if line == reference:
                continue
            if (values[line] == values[reference]).all():
                same.append(results.labels[line])
                continue
            found = stats.paired_t(values[line], values[reference], confidence)
            text = f"{results.labels[line]} ({found.value:+.3f}, interval {found.low:+.3f} to {found.high:+.3f})"
            side = "above" if found.low > 0 else "below" if found.high < 0 else None
            kinds[side].append(text) if side else open_.append(results.labels[line])
        for side, texts in kinds.items():
            if texts:
                said.append(f"{where}{what} is {side} that of {ref} for {'; '.join(texts)}.")
        n = len(values[reference])
        if same:
            said.append(f"{where}{what} is the same number as that of {ref} in all {n} seeds for {', '.join(same)}.")
        if open_:
            said.append(f"{where}with {n} seeds no difference in {what} to {ref} is shown for {', '.join(open_)}.")
        mine = frame[frame["panel"] == panel]
        fell = mine.groupby("line", sort=False)["collapsed"].agg(["sum", "count"])
        fell = fell[fell["sum"] > 0]
        if len(fell):
            parts = [f"{results.labels[i]} {int(r['sum'])} of {int(r['count'])}" for i, r in fell.iterrows()]
            said.append(f"{where}runs that collapsed: {', '.join(parts)}.")
            if diverged := int((mine["status"] != FINISHED).sum()):
                said.append(f"{where}{diverged} of them diverged, which counts as a score of 0.")
        else:
            said.append(f"{where}none of {len(mine)} runs collapsed.")
    said.append(
        f"{count} comparison{'s' * (count != 1)} at a joint confidence of 95 %, "
        "Student's t on differences of equal seeds. "
        "That no difference is shown does not mean that there is none."
    )
    return said


def save(
    results: Results, figures: Mapping[str, Figure], tables: Mapping[str, pd.DataFrame], found: Sequence[str]
) -> Path:
    """Write figures (PNG), tables (CSV), a row a run (runs.csv) and findings into `figures/` of the sweep's folder."""
    target = style.save(results.sweep.path, figures)
    for name, frame in {**tables, "runs": results.runs}.items():
        frame.to_csv(target / f"{name}.csv", index=isinstance(frame.index, pd.MultiIndex), float_format="%.6g")
    (target / "findings.md").write_text("".join(f"- {sentence}\n" for sentence in found))
    return target


def both(row: pd.Series) -> str:
    """A difference with its bootstrap interval in square and Student's in round brackets."""
    return (
        f"{row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] ({row['t_low']:+.3f}, {row['t_high']:+.3f})"
    )


def _interval(estimate: stats.Estimate) -> str:
    return f"[{estimate.low:.3f}, {estimate.high:.3f}]"


def _show(value) -> str:
    return "off" if value is None else f"{value:g}"
