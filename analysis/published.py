"""Scores that others published, for each benchmark, and ours beside them.

`published.csv` has Avg@32 and Pass@32 in per cent of R1-Distill-Qwen after training, as the READMEs of FlyTune/DGPO-RL
and FlyTune/MASPO-RL give them. Neither publishes an interval, the number of training runs, or the temperature.
"""

from functools import cache
from pathlib import Path

import pandas as pd

from analysis.evaluations import Evaluations
from analysis.style import label
from dgpo.evaluation.benchmarks import SHORT_NAMES
from dgpo.evaluation.report import both
from dgpo.evaluation.scores import pass_at

_FILE = Path(__file__).with_name("published.csv")
_NAMES = {"minerva": "minerva_math", "olympiad": "olympiadbench_maths_en"}  # file names of the benchmarks


@cache
def scores(model: str) -> pd.DataFrame:
    """source, method, benchmark, avg_at_32, pass_at_32 of a model, "R1-Distill-Qwen-1.5B" or short "1.5B".

    Raises ValueError for another model.
    """
    frame = pd.read_csv(_FILE)
    size = model.removeprefix("R1-Distill-Qwen-")
    if size not in set(frame["model"]):
        known = ", ".join(f"R1-Distill-Qwen-{name}" for name in frame["model"].unique())
        raise ValueError(f"published={model!r} must be None or one of: {known}")
    rows = frame[frame["model"] == size].drop(columns="model").replace({"benchmark": _NAMES})
    return rows.reset_index(drop=True)


def beside(evaluations: Evaluations, model: str) -> pd.DataFrame:
    """A row for each of our policies and each published one: avg and pass of every published benchmark, in per cent.

    Ours have their own n and k and intervals `[over samples] (over problems)`; a dash marks a missing number. Raises
    ValueError for a model without published scores.
    """
    theirs = scores(model)
    columns = list(dict.fromkeys(theirs["benchmark"]))
    single = [column for column in columns if column != "average"]
    rows = []
    for name, group in evaluations.items():
        known = {SHORT_NAMES.get(samples.benchmark, samples.benchmark): [samples] for samples in group}
        if single and {*single} <= {*known}:
            known["average"] = [known[column][0] for column in single]
        for what, k in ((f"avg@{group[0].n}", 1), (f"pass@{group[0].n}", group[0].n)):
            cells = {column: both(*pass_at(known[column], k)) for column in columns if column in known}
            rows.append({"policy": label(name), "source": "ours", "score": what} | cells)
    for (source, method), part in theirs.groupby(["source", "method"], sort=False):
        for what, column in (("Avg@32", "avg_at_32"), ("Pass@32", "pass_at_32")):
            cells = dict(zip(part["benchmark"], part[column].map("{:.1f}".format), strict=True))
            rows.append({"policy": method, "source": f"published: {source}", "score": what} | cells)
    return pd.DataFrame(rows, columns=["policy", "source", "score", *columns]).fillna("–")
