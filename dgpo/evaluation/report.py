"""The tables that the command line prints."""

from pathlib import Path

from dgpo.evaluation import run
from dgpo.evaluation.folder import EvaluationError, EvaluationFolder
from dgpo.evaluation.scores import VERDICTS, Interval, compare, pass_at, powers, summary, unlike


def table(path: str | Path) -> str:
    """avg@n with both intervals, pass@k, maj@k, length, truncation and verdicts of each benchmark, and their mean."""
    folder = EvaluationFolder(path)
    everything = list(run.read(path))
    n = folder.config.n
    ks = folder.config.k or powers(n)
    lines = ["in per cent; [over samples] (over problems)"]
    for samples in everything:
        row = summary(samples, ks)
        shares = ", ".join(f"{v} {row['verdict/' + v]:.1%}" for v in VERDICTS)
        lines.append(
            f"{samples.benchmark}: {row['problems']} problems × {n}, mean length {row['length']:.0f}, "
            f"truncated {row['truncated']:.1%}; {shares}"
        )
        lines.append(f"  avg@{n:<5d} {both(*pass_at(samples, 1))}")
        for k in [k for k in ks if k > 1]:
            lines.append(f"  pass@{k:<4d} {both(*pass_at(samples, k)):40s} maj@{k} {100 * row[f'maj@{k}']:.1f}")
    if len(everything) > 1:
        lines += [f"mean of {len(everything)} benchmarks", f"  avg@{n:<5d} {both(*pass_at(everything, 1))}"]
        lines += [f"  pass@{n:<4d} {both(*pass_at(everything, n))}"]
    return "\n".join(lines)


def differences(first: str | Path, second: str | Path) -> str:
    """avg of the first minus the second on each shared benchmark, with intervals and p-values, and a warning where the
    two were sampled with different settings: the difference is then not of the policies alone.

    Raises EvaluationError when they share none or the problems differ.
    """
    others = {samples.benchmark: samples for samples in run.read(second)}
    lines = []
    for samples in run.read(first):
        if samples.benchmark in others:
            try:
                found = compare(samples, others[samples.benchmark])
            except ValueError as error:
                raise EvaluationError(f"{first} and {second}: {error}") from None
            lines.append(
                f"{samples.benchmark}: avg {both(found.samples, found.problems, '+.1f')}, "
                f"p = {found.p_samples:.4f} over samples, {found.p_problems:.4f} over problems"
            )
            if settings := unlike(samples, others[samples.benchmark]):
                lines.append(f"  warning: not a difference of the policies alone, they were sampled with {settings}")
    if not lines:
        raise EvaluationError(f"{first} and {second} have no benchmark in common")
    return "\n".join([f"{first} − {second}, in points; [over samples] (over problems)", *lines])


def both(samples: Interval, problems: Interval, form: str = ".1f") -> str:
    """`62.5 [60.1, 64.9] (55.0, 70.0)`; a dash for a missing bound."""
    value, a, b, c, d = ("–" if x != x else format(100 * x, form) for x in (*samples, *problems[1:]))
    return f"{value} [{a}, {b}] ({c}, {d})"
