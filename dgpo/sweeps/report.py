"""The report of a sweep in Markdown: what was equal in all runs, what differed and by whose decision, the results."""

from typing import Any

import pandas as pd

from dgpo.config import Config, ConfigError
from dgpo.files import atomic_write
from dgpo.sweeps.definition import Cell, Sweep, comparable
from dgpo.sweeps.execute import DIVERGED, FAILED, FINISHED, UNFINISHED, locked, start_policies
from dgpo.sweeps.table import costs

ABSENT = "–"


def report(sweep: Sweep, frame: pd.DataFrame) -> str:
    """The report, from the settings and the table of `collect`."""
    equal, differing = contrast(sweep)
    parts = [f"# Sweep {sweep.name}", _design(sweep), "## Equal in all cells", _sentence(equal)]
    if start := _start(sweep):
        parts.append(f"Start: {start}")
    parts += ["## What differs", _markdown(differing), *_notes(sweep, differing)]
    runs = costs(sweep)
    parts += ["## Runs", _markdown(_outcome(sweep, frame, runs)), *_failures(runs)]
    return "\n\n".join(parts) + "\n"


def _start(sweep: Sweep) -> str:
    try:
        return ", ".join(f"{name}, sha256 {str(digest)[:16]}" for name, digest in start_policies(sweep).items())
    except ConfigError as error:
        return str(error)


def write(sweep: Sweep, frame: pd.DataFrame) -> str:
    """The report, also written to `report.md` in the folder."""
    text = report(sweep, frame)
    with locked(sweep.path):
        atomic_write(sweep.path / "report.md", lambda scratch: scratch.write_text(text))
    return text


def contrast(sweep: Sweep) -> tuple[dict[str, Any], pd.DataFrame]:
    """(settings that all cells share, a frame of those that differ with a row for each cell). Parameters of methods
    count as settings; a cell whose method lacks one has `–` there."""
    cells = {cell.name: flat(sweep.config(cell, 0)) for cell in sweep.cells}
    names = dict.fromkeys(name for settings in cells.values() for name in settings)
    shown = {
        cell: {name: "off" if settings.get(name, ABSENT) is None else settings.get(name, ABSENT) for name in names}
        for cell, settings in cells.items()
    }
    frame = pd.DataFrame.from_dict(shown, orient="index", dtype=object)
    varies = frame.map(repr).nunique() > 1
    return {str(k): v for k, v in frame.loc[:, ~varies].iloc[0].items()}, frame.loc[:, varies]


def flat(config: Config) -> dict[str, Any]:
    """The settings that decide a run's numbers, by name, including those of the embedded policy and of the method."""
    settings = comparable(config)
    tiny, params = settings.pop("tiny"), settings.pop("method_params")
    if config.model == "tiny":
        settings |= {f"tiny.{k}": v for k, v in tiny.items()}
    return settings | {"total_updates": config.total_updates} | params


def undecided(sweep: Sweep, differing: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """Settings that differ between cells although some cell does not set them: {setting: {its default there: cells}}.

    Methods bring defaults of their own, so two methods may differ in more than the sweep's file shows.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for setting in (str(c) for c in differing if c in _method_parameters(sweep)):
        for cell in sweep.cells:
            value = differing.loc[cell.name, setting]
            if str(value) != ABSENT and not _sets(sweep, cell, setting):
                found.setdefault(setting, {}).setdefault(str(value), []).append(cell.name)
    return found


def _method_parameters(sweep: Sweep) -> set[str]:
    return {name for cell in sweep.cells for name in sweep.config(cell, 0).method_params}


def _sets(sweep: Sweep, cell: Cell, setting: str) -> bool:
    given = {**sweep.settings, **cell.settings}
    return setting in given or setting in (given.get("method_params") or {})


def _notes(sweep: Sweep, differing: pd.DataFrame) -> list[str]:
    lines = []
    for setting, values in undecided(sweep, differing).items():
        held = "; ".join(f"{value} in {_some(cells)}" for value, cells in values.items())
        lines.append(f"- `{setting}` is left to the method: {held}")
    for setting in differing:
        without = [cell for cell in differing.index if str(differing.loc[cell, setting]) == ABSENT]
        if without:
            lines.append(f"- `{setting}` does not exist in {_some(without)}: there it cannot be made equal")
    return ["\n".join(lines)] if lines else []


def _design(sweep: Sweep) -> str:
    factors = " × ".join(f"{name} ({len(values)})" for name, values in sweep.factors.items())
    seeds = ", ".join(map(str, sweep.seeds))
    return f"{factors}, {len(sweep.cells)} cells, seeds {seeds}: {len(sweep.cells) * len(sweep.seeds)} runs."


def _outcome(sweep: Sweep, frame: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    counts = runs.groupby(["cell", "status"]).size().unstack(fill_value=0)
    table = counts.reindex(index=[c.name for c in sweep.cells], fill_value=0)
    table = table.reindex(columns=[c for c in (FINISHED, DIVERGED, FAILED, UNFINISHED) if c in counts])
    score = f"eval/avg@{sweep.config(sweep.cells[0], sweep.seeds[0]).eval_samples}"
    if score in frame:
        last = frame[frame["status"] == FINISHED].dropna(subset=[score]).groupby(["cell", "seed"])[score].last()
        for name in ("mean", "min", "max"):
            table[f"{score} {name}"] = last.groupby("cell").agg(name).map("{:.3f}".format)
    if "cpu_seconds" in runs:
        table["CPU s a run"] = runs.groupby("cell")["cpu_seconds"].mean().map("{:.1f}".format, na_action="ignore")
    return table.fillna(ABSENT)


def _failures(runs: pd.DataFrame) -> list[str]:
    bad = runs[runs["status"].isin([DIVERGED, FAILED])]
    return ["\n".join(f"- {r.cell} seed {r.seed} {r.status}: {r.reason}" for r in bad.itertuples())] if len(bad) else []


def _sentence(settings: dict[str, Any]) -> str:
    written = {name: str(value).replace("\n", "\\n") for name, value in settings.items()}  # a line break ends no line
    return ", ".join(f"{name} {value}" for name, value in written.items()) + "."


def _some(cells: list[str]) -> str:
    return ", ".join(cells[:6]) + (f" and {len(cells) - 6} more" if len(cells) > 6 else "")


def _markdown(frame: pd.DataFrame) -> str:
    head = ["cell", *map(str, frame.columns)]
    rows = [[str(index), *map(str, row)] for index, row in zip(frame.index, frame.to_numpy(), strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])
