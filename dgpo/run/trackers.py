"""Copies of a run's rows for trackers (`log_to`), by each tracker's own client; metrics.jsonl stays the source.

    trackers = Trackers(["wandb"], Tracked(id, folder, settings))
    trackers.log({"step": 3, "reward/mean": 0.5})           the first row opens them; None is left out

A tracker that fails is named once and left out from then on. A resumed run continues its run in the tracker; steps
that it makes again are there twice, with equal values. Servers, projects and offline modes are set as each tracker
documents: WANDB_MODE=offline, WANDB_PROJECT, MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_NAME, TRACKIO_SPACE_ID, …
"""

import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from dgpo.errors import one_line
from dgpo.progress import tell

_PROJECT = "dgpo"


@dataclass(frozen=True)
class Tracked:
    """What trackers are told of a run, whose `id` is unique."""

    id: str
    folder: Path
    settings: dict[str, Any]


Opened = tuple[Callable[[int, dict[str, float]], Any], Callable[[], Any]]  # log(step, values), close()


class Trackers:
    """The trackers of these names, each opened at the first row."""

    def __init__(self, names: Sequence[str], run: Tracked):
        self.run, self._waiting, self._open = run, [*names], {}

    def log(self, row: dict[str, Any]) -> None:
        """Send a row of metrics.jsonl. Never raises."""
        step, values = row["step"], {k: v for k, v in row.items() if k != "step" and v is not None}
        for name in self._waiting:
            self._try(name, lambda name=name: self._open.update({name: _OPEN[name](self.run, step)}))
        self._waiting = []
        for name in [*self._open]:
            self._try(name, lambda name=name: self._open[name][0](step, values))

    def close(self) -> None:
        """Let the trackers send what they hold. Never raises."""
        for name in [*self._open]:
            self._try(name, self._open[name][1])
        self._open = {}

    def _try(self, name: str, call: Callable[[], Any]) -> None:
        try:
            with redirect_stdout(sys.stderr):  # what clients print is no output of the run
                call()
        except Exception as error:  # noqa: BLE001 (a server, a network, a disk: none is worth the run)
            self._open.pop(name, None)
            said = one_line(error)
            tell(f"log_to: {name} failed and is left out from here on ({said}); metrics.jsonl has every row")


def _tensorboard(run: Tracked, step: int) -> Opened:
    board = import_module("torch.utils.tensorboard").SummaryWriter(str(run.folder / "tensorboard"), purge_step=step)

    def log(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            board.add_scalar(name, value, step)
        board.flush()

    return log, board.close


def _wandb(run: Tracked, step: int) -> Opened:
    made = import_module("wandb").init(
        project=os.environ.get("WANDB_PROJECT") or _PROJECT,
        id=run.id,
        name=run.folder.name,
        dir=str(run.folder),
        config=run.settings,
        resume="allow",
        settings={"console": "off"},
    )
    made.define_metric("*", step_metric="step")  # its own counter refuses steps that a resume makes again
    return lambda step, values: made.log({"step": step, **values}), made.finish


def _trackio(run: Tracked, step: int) -> Opened:
    project, name = os.environ.get("TRACKIO_PROJECT") or _PROJECT, f"{run.folder.name}-{run.id[:8]}"  # found by name
    made = import_module("trackio").init(project, name, config=run.settings, resume="allow", embed=False)
    return lambda step, values: made.log(values, step=step), made.finish


def _mlflow(run: Tracked, step: int) -> Opened:
    client, entities = import_module("mlflow").MlflowClient(), import_module("mlflow.entities")
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _PROJECT
    there = client.get_experiment_by_name(name)
    place = there.experiment_id if there else client.create_experiment(name)
    found = client.search_runs([place], f"tags.dgpo_run = '{run.id}'")
    made = found[0] if found else client.create_run(place, tags={"dgpo_run": run.id}, run_name=run.folder.name)
    key = made.info.run_id
    client.update_run(key, status="RUNNING")
    if not found:
        client.log_batch(key, params=[entities.Param(name, str(value)) for name, value in run.settings.items()])

    def log(step: int, values: dict[str, float]) -> None:
        now = int(1000 * time.time())
        named = {re.sub(r"[^\w./: -]", "_", name): value for name, value in values.items()}  # it has no @
        client.log_batch(key, metrics=[entities.Metric(name, value, now, step) for name, value in named.items()])

    return log, lambda: client.set_terminated(key)


_OPEN: dict[str, Callable[[Tracked, int], Opened]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "trackio": _trackio,
    "mlflow": _mlflow,
}
