"""Read evaluations and tabulate them; each score has two intervals.

    evaluations = read({"start": "runs/eval-start", "dgpo": "runs/eval-dgpo"})
    main_table(evaluations)

An interval in square brackets is over samples (these problems, other completions), one in parentheses over problems
(other problems like these). All statistics come from `dgpo.evaluation.scores`.
"""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from analysis import style
from dgpo.evaluation import run
from dgpo.evaluation.folder import EvaluationError, EvaluationFolder
from dgpo.evaluation.report import both
from dgpo.evaluation.scores import VERDICTS, Samples, compare, majority_at, pass_at, per_problem, unlike

Evaluations = Mapping[str, list[Samples]]


def read(folders: Mapping[str, str | Path]) -> dict[str, list[Samples]]:
    """The judged completions of each evaluation, one Samples for each benchmark. Raises EvaluationError, also for
    unequal n."""
    out = {name: [*run.read(path)] for name, path in folders.items()}
    sizes = {name: samples[0].n for name, samples in out.items()}
    if len(set(sizes.values())) > 1:
        raise EvaluationError(f"evaluations with different n have no common table: {sizes}")
    return out


def main_table(evaluations: Evaluations) -> pd.DataFrame:
    """A row for each evaluation, a column for each benchmark (avg@n with both intervals, in per cent), and the means
    of avg and pass."""
    rows = []
    for name, group in evaluations.items():
        n = group[0].n
        row = {"policy": style.label(name)}
        row |= {f"{samples.benchmark} avg@{n}": both(*pass_at(samples, 1)) for samples in group}
        rows.append(row | {"mean avg": both(*pass_at(group, 1)), "mean pass": both(*pass_at(group, n)), "k": n})
    columns = list(dict.fromkeys(name for row in rows for name in row))
    last = ["mean avg", "mean pass", "k"]
    return pd.DataFrame(rows, columns=[c for c in columns if c not in last] + last).fillna("–")


def pass_table(evaluations: Evaluations, ks=None) -> pd.DataFrame:
    """pass@k with both intervals and maj@k, in per cent: a row for each evaluation, benchmark and k."""
    rows = []
    for name, group in evaluations.items():
        for samples in group:
            chosen = [k for k in ks or (1, 2, 4, 8, 16, 32, 64) if k <= samples.n]
            majority = majority_at(samples, chosen)
            for k in chosen:
                row = {"policy": style.label(name), "benchmark": samples.benchmark, "k": k}
                row |= {"pass@k": both(*pass_at(samples, k)), "maj@k": f"{100 * majority[k].mean():.1f}"}
                rows.append(row)
    return pd.DataFrame(rows)


def differences(evaluations: Evaluations, reference: str, k: int = 1) -> pd.DataFrame:
    """Each evaluation minus `reference` on every benchmark that both have, in points, with intervals and p-values.

    If two were sampled with different settings, a last column says so: they differ in more than the policy. Raises
    ValueError for an unknown reference and for different problems.
    """
    if reference not in evaluations:
        raise ValueError(f"reference={reference!r} must be one of: {', '.join(evaluations)}")
    base = {samples.benchmark: samples for samples in evaluations[reference]}
    rows = []
    for name, group in evaluations.items():
        for samples in group if name != reference else ():
            if samples.benchmark not in base:
                continue
            found = compare(samples, base[samples.benchmark], k)
            rows.append(
                {
                    "difference": f"{style.label(name)} − {style.label(reference)}",
                    "benchmark": samples.benchmark,
                    f"pass@{k}" if k > 1 else "avg": both(found.samples, found.problems, "+.1f"),
                    "p over samples": found.p_samples,
                    "p over problems": found.p_problems,
                    "not sampled alike": unlike(samples, base[samples.benchmark]),
                }
            )
    if not any(row["not sampled alike"] for row in rows):
        rows = [{k: v for k, v in row.items() if k != "not sampled alike"} for row in rows]
    return pd.DataFrame(rows)


def problems(evaluations: Evaluations, benchmark: str) -> pd.DataFrame:
    """avg of every problem of a benchmark, hardest first, a column for each evaluation. ValueError if none has it."""
    columns = {
        name: per_problem(samples, [1]).set_index("problem")["avg"]
        for name, group in evaluations.items()
        for samples in group
        if samples.benchmark == benchmark
    }
    if not columns:
        known = sorted({samples.benchmark for group in evaluations.values() for samples in group})
        raise ValueError(f"no evaluation of {benchmark!r}; there are: {', '.join(known)}")
    frame = pd.DataFrame(columns)
    return frame.loc[frame.mean(axis=1).sort_values(kind="stable").index]


def lengths(evaluations: Evaluations) -> pd.DataFrame:
    """Tokens of completions (mean, median, 95th percentile), and the shares of truncated ones and of every verdict."""
    rows = []
    for name, group in evaluations.items():
        for samples in group:
            tokens = pd.Series(samples.lengths.ravel())
            row = {"policy": style.label(name), "benchmark": samples.benchmark, "mean length": tokens.mean()}
            row |= {"median": tokens.median(), "95 %": tokens.quantile(0.95)}
            row |= {"truncated %": 100 * (1 - samples.finished.mean())}
            rows.append(row | {f"{v} %": 100 * (samples.verdicts == v).mean() for v in VERDICTS})
    return pd.DataFrame(rows).round(2)


def unread(folder: str | Path, count: int = 20, width: int = 160) -> pd.DataFrame:
    """Completions to look at by hand: first those whose answer could not be read or judged, then those without one."""
    opened, found = EvaluationFolder(folder), []
    for benchmark in opened.benchmarks:
        for frame in opened.completions(benchmark):
            some = frame[frame["verdict"].isin(["unparsed", "timeout", "no_answer"])]
            found.append(some.assign(benchmark=benchmark, end=some["text"].str[-width:]))
    rows = pd.concat(found)
    order = rows["verdict"].map({"unparsed": 0, "timeout": 1, "no_answer": 2})
    rows = rows.iloc[order.argsort(kind="stable")].head(count)
    columns = ["benchmark", "problem", "sample", "verdict", "finished", "reference", "answer", "end"]
    return rows[columns].reset_index(drop=True).fillna({"answer": "–"})
