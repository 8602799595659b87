"""The one table of a sweep: `sweep.parquet`, a row for every step of every run that has ended."""

import json
from pathlib import Path

import pandas as pd

from dgpo.config import ConfigError
from dgpo.files import write_whole
from dgpo.plain import path_text
from dgpo.runfolder import read_metrics
from dgpo.sweep.definition import Sweep, load
from dgpo.sweep.execute import DIVERGED, FINISHED, locked, status


def collect(sweep: Sweep) -> pd.DataFrame:
    """All metrics of all runs that have finished or diverged, and write them to `sweep.parquet`, whole or not at all.

    Columns: `cell`, `factor/NAME` with the name of the level for each factor, `seed`, `status`, `step`, and the metrics
    of `metrics.jsonl` but its wall times, so that two sweeps with the same settings have the same table.
    """
    if not (sweep.path / "sweep.yaml").exists():
        raise ConfigError(f"folder={sweep.folder!r} is not the folder of a sweep: it has no sweep.yaml")
    rows = []
    for run in sweep.runs():
        how, _ = status(run)
        if how in (FINISHED, DIVERGED):
            levels = {f"factor/{name}": level for name, level in run.cell.levels.items()}
            head = {"cell": run.cell.name, **levels, "seed": run.seed, "status": how}
            rows += [head | row for row in read_metrics(run.path)]
    frame = pd.DataFrame(rows)
    metrics = [c for c in frame if c not in ("cell", "status") and not c.startswith("factor/")]
    frame[metrics] = frame[metrics].apply(pd.to_numeric)
    with locked(sweep.path):
        write_whole(sweep.path / "sweep.parquet", lambda scratch: frame.to_parquet(scratch, index=False))
    return frame


def read(folder: str | Path) -> Sweep:
    """The sweep that a folder was made with; its runs are looked for in this folder, wherever it is now."""
    path = Path(path_text(folder)) / "sweep.yaml"
    if not path.exists():
        raise ConfigError(f"folder={str(folder)!r} is not the folder of a sweep: it has no sweep.yaml")
    return load(path, folder=str(folder))


def costs(sweep: Sweep) -> pd.DataFrame:
    """A row a run: cell, seed, status, reason; of finished ones also CPU seconds and peak memory of their process."""
    rows = []
    for run in sweep.runs():
        how, why = status(run)
        row = {"cell": run.cell.name, "seed": run.seed, "status": how, "reason": why}
        if how == FINISHED:
            summary = json.loads((run.path / "summary.json").read_text())
            row |= {"cpu_seconds": summary["cpu_seconds"], "peak_memory_gb": summary["peak_memory_gb"]}
        rows.append(row)
    return pd.DataFrame(rows)
