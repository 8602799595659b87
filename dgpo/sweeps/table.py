"""The table of a sweep: `sweep.parquet`, a row for every step of every run that has ended."""

from pathlib import Path

import pandas as pd

from dgpo import config as configs
from dgpo.config import ConfigError
from dgpo.files import atomic_write
from dgpo.plain import path_text
from dgpo.run.rows import read_metrics
from dgpo.sweeps.definition import Run, Sweep, load
from dgpo.sweeps.execute import DIVERGED, FAILED, FINISHED, locked, read_fields, status


def collect(sweep: Sweep) -> pd.DataFrame:
    """All metrics of all runs that have finished or diverged, also written atomically to `sweep.parquet`.

    Columns: `cell`, `factor/NAME` with the level's name for each factor, `seed`, `status`, `step`, and the metrics of
    `metrics.jsonl` without wall times, so that two sweeps with the same settings have the same table.
    """
    if not (sweep.path / "sweep.yaml").exists():
        raise ConfigError(f"folder={sweep.folder!r} is not the folder of a sweep: it has no sweep.yaml")
    rows = []
    for run in sweep.runs():
        how, _, metrics, _ = _read(run)
        levels = {f"factor/{name}": level for name, level in run.cell.levels.items()}
        head = {"cell": run.cell.name, **levels, "seed": run.seed, "status": how}
        rows += [head | row for row in metrics]
    frame = pd.DataFrame(rows)
    metrics = [c for c in map(str, frame) if c not in ("cell", "status") and not c.startswith("factor/")]
    frame[metrics] = frame[metrics].apply(pd.to_numeric)
    with locked(sweep.path):
        atomic_write(sweep.path / "sweep.parquet", lambda scratch: frame.to_parquet(scratch, index=False))
    return frame


def read(folder: str | Path) -> Sweep:
    """The sweep that a folder was made with; its runs are read from this folder, which may have moved."""
    path = Path(path_text(folder)) / "sweep.yaml"
    if not path.exists():
        raise ConfigError(f"folder={str(folder)!r} is not the folder of a sweep: it has no sweep.yaml")
    return load(path, folder=str(folder))


def costs(sweep: Sweep) -> pd.DataFrame:
    """A row for each run: cell, seed, status, reason; for finished ones also CPU seconds and peak memory."""
    rows = []
    for run in sweep.runs():
        how, why, _, cost = _read(run)
        rows.append({"cell": run.cell.name, "seed": run.seed, "status": how, "reason": why} | cost)
    return pd.DataFrame(rows)


def _read(run: Run) -> tuple[str, str, list[dict], dict]:
    """(status, why, metrics, cost) of a run, the last two empty until it has ended.

    A run with a missing or damaged file has failed; the reason names the file.
    """
    how, why = status(run)
    if how not in (FINISHED, DIVERGED):
        return how, why, [], {}
    try:
        configs.read_run(run.path / "config.yaml")
        cost = read_fields(run.path / "summary.json", "cpu_seconds", "peak_memory_gb") if how == FINISHED else {}
        metrics = read_metrics(run.path)
        steps = [row["step"] for row in metrics]
        if steps != sorted({*steps}) or (how == FINISHED and steps[-1:] != [run.config.steps]):
            raise ConfigError(f"{run.path / 'metrics.jsonl'} lacks rows, or has some twice")
    except (ConfigError, OSError) as error:
        return FAILED, f"{error}; remove {run.path} to have the run made again", [], {}
    return how, why, metrics, cost
