"""A run is a folder: `config.yaml metrics.jsonl completions.jsonl tokens/ checkpoints/ policy/ summary.json`.

Files and folders appear whole or not at all; rows are appended. Metrics and records of steps after the newest
checkpoint are dropped when a run continues; the continuation makes them again. One run at a time has the folder. Of
several ranks the first one reads and writes; the others get what it returns, and its errors.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from dgpo import checkpoint, ranks
from dgpo import config as configs
from dgpo.checkpoint import CheckpointError
from dgpo.config import Config, ConfigError
from dgpo.files import lock, partial, remove, write_whole
from dgpo.progress import tell

_OWN = (
    "config.yaml",
    "metrics.jsonl",
    "completions.jsonl",
    "summary.json",
    "tokens",
    "checkpoints",
    "policy",
    "tensorboard",
    "failed",
    "figures",
)

# What may differ between a run and its continuation: none of these changes the steps already made,
RESUMABLE = (
    "resume",
    "overwrite",
    "run_dir",
    "steps",
    "checkpoint_every",
    "keep_checkpoints",
    "keep_best",
    "tensorboard",
    "timeout",
    "ranks",
    "zero_stage",
    "offload",
)
# and these change no more than the rounding of those to come.
ROUNDING = (
    "device",
    "threads",
    "attention",
    "liger",
    "gradient_checkpointing",
    "micro_batch",
    "micro_tokens",
    "rollout_rows",
    "vllm",
)


def differences(a: Config, b: Config) -> list[str]:
    """The settings in which b may not continue a, as `name: a → b`."""
    left, right = a.model_dump(), b.model_dump()
    free = {*RESUMABLE, *ROUNDING} - ({"steps"} if a.schedule == "cosine" else set())  # a cosine depends on its end
    return configs.changes({k: v for k, v in left.items() if k not in free}, right)


def rounding(a: Config, b: Config) -> list[str]:
    """The settings in which b continues a with other rounding, as `name: a → b`."""
    left, right = a.model_dump(include={*ROUNDING}), b.model_dump()
    return configs.changes(left, right)


def _by_rank_0(method):
    @functools.wraps(method)
    def called_by_all(self, *args):
        return ranks.first(method, self, *args)

    return called_by_all


class RunFolder:
    """The folder of one run. Making one only looks whether `config` may run there; `open` is what changes it.

    Raises ConfigError when the folder holds something else, or a run that is to be neither resumed nor overwritten.
    """

    def __init__(self, config: Config):
        self.config, self.path = config, Path(config.run_dir)
        self._lock = self._board = None
        self._check()

    @_by_rank_0
    def _check(self) -> None:
        config = self.config
        if config.resume and config.overwrite:
            raise ConfigError("resume=True and overwrite=True exclude each other")
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"run_dir={config.run_dir!r} is a file")
        before = self._config()
        exists = before is not None
        self._refuse_a_run(exists)
        unfinished = {".lock", partial(self.path / "config.yaml").name}  # what a kill at the start leaves
        if not exists and self.path.exists() and any(p.name not in unfinished for p in self.path.iterdir()):
            raise ConfigError(
                f"run_dir={config.run_dir!r} is not empty and not a run folder; nothing there was touched"
            )
        if not (exists and config.resume):
            return
        if changed := differences(before, config):
            raise ConfigError(f"resume=True: {config.run_dir!r} was started with other settings: {'; '.join(changed)}")
        if changed := rounding(before, config):
            tell(f"{self.path}: sums round otherwise from here on: {'; '.join(changed)}")

    @_by_rank_0
    def open(self) -> dict | None:
        """Make the folder, or bring it back to its newest whole checkpoint. Returns that checkpoint's state, or None.

        The folder is this run's until `close`. Raises ConfigError when another one has it, CheckpointError when there
        are checkpoints and none is whole.
        """
        self._lock = lock(self.path, f"run_dir={self.config.run_dir!r}")
        self._refuse_a_run(self._config() is not None)  # it may have come while this process was loading
        if self.config.overwrite:
            for name in reversed(_OWN):  # config.yaml last: until then it is still known as a run
                remove(self.path / name)
        state = self._newest_whole()
        if state is None or state["step"] < self.config.steps:  # what an earlier end left is of fewer steps
            remove(self.path / "summary.json")
            remove(self.path / "policy")
        self._rewind(state["step"] if state else -1)
        write_whole(self.path / "config.yaml", lambda scratch: configs.dump(self.config, scratch))
        return state

    def close(self) -> None:
        """Let another process have the folder."""
        if self._board:
            self._board.close()
        if self._lock:
            self._lock.close()

    # metrics and records

    @_by_rank_0
    def append_metrics(self, row: dict) -> None:
        _append(self.path / "metrics.jsonl", [row])
        if self.config.tensorboard:
            self._tensorboard(row)

    @_by_rank_0
    def append_completions(self, rows: list[dict]) -> None:
        _append(self.path / "completions.jsonl", rows)

    @_by_rank_0
    def write_tokens(self, step: int, records: pd.DataFrame) -> None:
        target = self.path / "tokens" / f"step_{step:06d}.parquet"
        write_whole(target, lambda scratch: records.to_parquet(scratch, index=False))

    @_by_rank_0
    def write_summary(self, summary: dict) -> None:
        write_whole(
            self.path / "summary.json", lambda scratch: scratch.write_text(json.dumps(summary, indent=2) + "\n")
        )

    # checkpoints

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:06d}"

    def checkpoints(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        return sorted(self.path.glob("checkpoints/step_??????"))

    def save_checkpoint(self, state: dict, write: Callable[[Path], None]) -> None:
        """Every rank calls `write` on one folder; once that is whole, old checkpoints go (see `checkpoint.save`)."""
        checkpoint.save(self.checkpoint(state["step"]), state, write)
        self._rotate()

    @_by_rank_0
    def _rotate(self) -> None:
        """Keep the newest `keep_checkpoints` and, with `keep_best`, the one of the highest held-out avg@k."""
        found = self.checkpoints()
        kept = set(found[-self.config.keep_checkpoints :])
        if self.config.keep_best:
            scores = {folder: checkpoint.heldout(folder) for folder in found}
            if evaluated := [folder for folder in found if scores[folder] is not None]:
                kept.add(max(evaluated, key=lambda folder: (scores[folder], folder)))
        for folder in found:
            if folder not in kept:  # under another name first: one that a kill leaves half removed is no checkpoint
                remove(folder.rename(partial(folder)))

    def _newest_whole(self) -> dict | None:
        """The state of the newest checkpoint that is whole. Damaged ones after it are moved to failed/."""
        damaged = {}
        for folder in reversed(self.checkpoints()):
            if not (complaint := checkpoint.damage(folder)):
                break
            damaged[folder] = complaint
        else:
            folder = None
        what = "; ".join(f"{path.name}: {complaint}" for path, complaint in damaged.items())
        if damaged and not folder:
            raise CheckpointError(
                f"run_dir={self.config.run_dir!r}: no checkpoint is whole ({what}); overwrite=True starts afresh"
            )
        for path in damaged:
            (self.path / "failed").mkdir(exist_ok=True)
            remove(self.path / "failed" / path.name)
            path.rename(self.path / "failed" / path.name)
        if damaged:
            tell(f"{self.path}: damaged and moved to failed/: {what}; going on from {folder.name}")
        return checkpoint.load_state(folder) if folder else None

    @_by_rank_0
    def save_failed(self, step: int, tensors: dict[str, torch.Tensor]) -> Path:
        """The batch of an update that was not applied, for inspection with `safetensors.torch.load_file`."""
        target = self.path / "failed" / f"step_{step:06d}.safetensors"
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        write_whole(target, lambda scratch: save_file(tensors, scratch))
        return target

    @_by_rank_0
    def save_policy(self, write: Callable[[Path], None]) -> None:
        """The trained policy as a checkpoint folder of `transformers`."""
        write_whole(self.path / "policy", lambda scratch: (scratch.mkdir(), write(scratch)))

    def _refuse_a_run(self, exists: bool) -> None:
        if exists and not (self.config.resume or self.config.overwrite):
            raise ConfigError(
                f"run_dir={self.config.run_dir!r} holds a run already: "
                "resume=True continues it, overwrite=True starts it afresh"
            )

    def _config(self) -> Config | None:
        """The settings of the run that is in the folder, or None. A config.yaml of something else is an error."""
        path = self.path / "config.yaml"
        if not path.exists():
            return None
        try:
            settings = configs.read_recipe(path)
            if absent := {"run_dir", "method", "method_params"} - settings.keys():  # a run's config has every setting
                raise ConfigError(f"it has no {', '.join(sorted(absent))}")
            return configs.make(settings)
        except ConfigError as error:
            raise ConfigError(f"run_dir={str(self.path)!r}: its config.yaml is not that of a run: {error}") from None

    def _tensorboard(self, row: dict) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._board is None:
            self._board = SummaryWriter(str(self.path / "tensorboard"), purge_step=row["step"])
        for name, value in row.items():
            if name != "step" and value is not None:
                self._board.add_scalar(name, value, row["step"])
        self._board.flush()

    def _rewind(self, step: int) -> None:
        """Drop what was recorded after `step`, and what a kill left unfinished."""
        for name in ("metrics.jsonl", "completions.jsonl"):
            path = self.path / name
            if path.exists():
                rows = [row for row in read_rows(path) if row["step"] <= step]
                write_whole(path, lambda scratch, rows=rows: _append(scratch, rows))
        for path in self.path.glob("tokens/step_*.parquet"):
            if int(path.stem.removeprefix("step_")) > step:
                path.unlink()
        for path in (*self.path.glob(".*.partial"), *self.path.glob("*/.*.partial")):
            remove(path)


def read_rows(path: Path) -> list[dict]:
    """The rows of a JSON-lines file of a run. A last line that a kill cut off is left out.

    Raises ConfigError that names a line which is not a row.
    """
    rows = []
    for number, line in enumerate(path.read_text(errors="replace").split("\n")[:-1], 1):  # the rest is no whole line
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ConfigError(f"{path}, line {number} is not as it was written: {error}") from None
    return rows


def read_metrics(folder: Path) -> list[dict]:
    """The rows of a run's metrics without its wall times, which are all that two identical runs do not share."""
    rows = read_rows(folder / "metrics.jsonl")
    return [{name: value for name, value in row.items() if not name.startswith("seconds/")} for row in rows]


def _append(path: Path, rows: list[dict]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)
