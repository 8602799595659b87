"""A run is a folder: `identity.json config.yaml metrics.jsonl completions.jsonl tokens/ checkpoints/ policy/
summary.json`.

Files and folders are written atomically; rows are appended. A resume drops metrics and records of steps after the
newest checkpoint and makes them again. identity.json holds what the run was made of, and a resume must be made of the
same (dgpo.run.identity). One run at a time has the folder. With several ranks, rank 0 reads and writes; the others get
its results and its errors.
"""

import functools
import json
import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from safetensors.torch import save_file

from dgpo import config as configs
from dgpo.config import Config, ConfigError
from dgpo.distributed import process_group
from dgpo.files import Lock, atomic_write, check_place, lock, remove, sync_entry, write_text
from dgpo.plain import changes
from dgpo.progress import tell
from dgpo.run import checkpoint, rows
from dgpo.run.checkpoint import CheckpointError
from dgpo.run.identity import FILES, Identity, MadeOf

if TYPE_CHECKING:
    from dgpo.run.trackers import Trackers

_OWN = (
    "identity.json", "config.yaml", "metrics.jsonl", "completions.jsonl", "summary.json",
    "tokens", "checkpoints", "policy", "tensorboard", "wandb", "failed", "figures",
)  # fmt: skip


def differences(a: Config, b: Config) -> list[str]:
    """The settings that keep b from continuing a, as `name: a → b`."""
    left, right = a.model_dump(), b.model_dump()
    free = Config.resumable("free", "later", "content", "rounding")
    if a.schedule == "cosine":  # the schedule depends on the last step
        free.remove("steps")
    return changes({k: v for k, v in left.items() if k not in free}, right)


def rounding(a: Config, b: Config) -> list[str]:
    """The settings that make b round differently from a, as `name: a → b`."""
    return changes(a.model_dump(include=Config.resumable("rounding")), b.model_dump())


def _by_rank_0(method):
    @functools.wraps(method)
    def called_by_all(self, *args):
        return process_group.on_rank0(method, self, *args)

    return called_by_all


def _writes(method):
    """Run on rank 0, after a check that the folder is still this run's."""

    @functools.wraps(method)
    def guarded(self, *args):
        self.held()
        return method(self, *args)

    return _by_rank_0(guarded)


class RunFolder:
    """The folder of one run. The constructor only checks whether `config` may run there; `open` changes the folder.

    The attribute `config` is the given one with its date, which a run keeps.

    Raises ConfigError when the folder holds something else, or a run and neither resume nor overwrite is set.
    """

    def __init__(self, config: Config):
        self.config, self.path = config, Path(config.run_dir)
        self.identity: Identity  # from `open` on
        self._lock: Lock | None = None
        self._trackers: Trackers | None = None
        self._check()
        self.config = config.model_copy(update={"date": self._date()})

    @_by_rank_0
    def _date(self) -> str:
        """The date of the config, of the run to be resumed, or today."""
        before = self._config() if self.config.resume else None
        return self.config.date or (before and before.date) or str(date.today())

    @_by_rank_0
    def _check(self) -> None:
        config = self.config
        if config.resume and config.overwrite:
            raise ConfigError("resume=True and overwrite=True exclude each other")
        check_place(self.path, self._name)
        before = self._config()
        exists = before is not None
        self._refuse_a_run(exists)
        if not exists and self.path.exists() and not all(map(_left_by_a_kill, self.path.iterdir())):
            raise ConfigError(f"{self._name} is not empty and not a run folder; nothing there was touched")
        if not (exists and config.resume):
            return
        self._read_identity()
        if changed := differences(before, config):
            raise ConfigError(f"resume=True: {config.run_dir!r} was started with other settings: {'; '.join(changed)}")
        if changed := rounding(before, config):
            tell(f"{self.path}: from here on, sums round differently: {'; '.join(changed)}")

    def open(self, made_of: Callable[[], MadeOf]) -> dict | None:
        """Make the folder, or rewind it to its newest whole checkpoint. Returns that checkpoint's state, or None.

        `made_of` returns what the run is made of now (rank 0 calls it). The folder is this run's until `close`. Raises
        ConfigError when another process has it, when the run was made of something else or its metrics are incomplete,
        and CheckpointError when no checkpoint is whole, or the newest belongs to another run.
        """
        state, self.identity = self._open(made_of)
        return state

    @_by_rank_0
    def _open(self, made_of: Callable[[], MadeOf]) -> tuple[dict | None, Identity]:
        self._lock = lock(self.path, self._name)
        exists = self._config() is not None
        self._refuse_a_run(exists)  # another process may have begun one while this one was loading
        now = made_of()
        if exists and self.config.resume:
            state, identity, history = self._go_on(now)
        else:
            for name in reversed(_OWN):  # config.yaml near the end: until then the folder still counts as a run
                remove(self.path / name)
            state, identity, history = None, Identity.new(now), []
        if state is None or state["step"] < self.config.steps:  # they are of an earlier end
            remove(self.path / "summary.json")
            remove(self.path / "policy")
        write_text(self.path / "identity.json", identity.model_dump_json(indent=2))
        self._rewind(state["step"] if state else -1, history)
        config = self.config.model_copy(update={"accept_changes": []})  # accepted once, and recorded
        atomic_write(self.path / "config.yaml", lambda scratch: configs.dump(config, scratch))
        if config.log_to:
            from dgpo.run.trackers import Tracked, Trackers

            self._trackers = Trackers(config.log_to, Tracked(identity.id, self.path, config.model_dump()))
        return state, identity

    def _go_on(self, now: MadeOf) -> tuple[dict | None, Identity, list[dict]]:
        """The newest whole checkpoint's state, the identity with accepted changes, and the metrics up to there.

        Raises for changes that are not accepted, see `open`.
        """
        config, before = self.config, self._read_identity()
        names = {name: Path(path).name for name in FILES if (path := getattr(config, name))}
        accepted = before.check(
            now, self._name, accept=config.accept_changes, acceptable=configs.ACCEPTABLE, names=names
        )
        state = self._newest_whole(before)
        step = state["step"] if state else -1
        lost = [s for entry in before.accepted if entry["what"] == "metrics" for s in entry["lost"]]
        history = rows.history(self.path / "metrics.jsonl", step, lost)
        identity = before.going_on(now, accepted, self._name, step=max(step, 0))
        if history.faults:
            faults = "; ".join(history.faults)
            if "metrics" not in config.accept_changes:
                raise ConfigError(
                    f"{self.path / 'metrics.jsonl'}, {faults}: each of the steps 0–{step} should have one row, in "
                    "order. Restore the file; or accept_changes=[metrics] continues without the lost rows, "
                    "overwrite=True starts afresh"
                )
            identity = identity.noting({"step": step, "what": "metrics", "lost": history.missing, "found": faults})
        return state, identity, history.rows

    def close(self) -> None:
        """Let another process have the folder."""
        if self._trackers:
            self._trackers.close()
        if self._lock:
            self._lock.close()

    def held(self) -> None:
        """Raise FolderLost unless the folder is still the one that was opened. Rank 0 calls it."""
        if self._lock:
            self._lock.check()

    # metrics and records

    @_writes
    def append_metrics(self, row: dict) -> None:
        rows.append(self.path / "metrics.jsonl", [row])
        if self._trackers:
            self._trackers.log(row)

    @_writes
    def append_completions(self, examples: list[dict]) -> None:
        rows.append(self.path / "completions.jsonl", examples)

    @_writes
    def write_tokens(self, step: int, records: pd.DataFrame) -> None:
        target = self.path / "tokens" / f"step_{step:06d}.parquet"
        atomic_write(target, lambda scratch: records.to_parquet(scratch, index=False))

    @_writes
    def write_summary(self, summary: dict) -> None:
        write_text(self.path / "summary.json", json.dumps(summary, indent=2))

    # checkpoints

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step_{step:06d}"

    def checkpoints(self) -> list[Path]:
        """The whole checkpoints, oldest first."""
        return [path for _, path in sorted(_steps(self.path / "checkpoints", ""))]

    def save_checkpoint(self, state: dict, write: Callable[[Path], None]) -> None:
        """Every rank calls `write` on one folder; once it is whole, old checkpoints are removed (`checkpoint.save`)."""
        self._keep_rows()
        state = {**state, "run": self._run(self.identity)}
        checkpoint.save(self.checkpoint(state["step"]), state, write, self.held)
        self._rotate()

    def _run(self, identity: Identity) -> dict:
        """What a checkpoint records of its run."""
        return {"id": identity.id, "method": str(self.config.make_method()), "seed": self.config.seed}

    @_writes
    def _keep_rows(self) -> None:
        """Sync the rows to disk: a checkpoint promises those up to its step."""
        for path in self.path.glob("*.jsonl"):
            sync_entry(path)
        sync_entry(self.path)

    @_writes
    def _rotate(self) -> None:
        checkpoint.rotate(self.checkpoints(), self.config.keep_checkpoints, self.config.keep_best)

    def _newest_whole(self, identity: Identity) -> dict | None:
        """The state of the newest whole checkpoint. Raises CheckpointError if it is of another run, or all are lost."""
        folder = checkpoint.newest_whole(self.checkpoints(), self.path, self._name)
        if folder is None:
            if (self.path / "summary.json").exists():  # starting again would remove the trained policy
                raise CheckpointError(
                    f"{self._name} has finished and has no checkpoint to continue from; overwrite=True starts afresh"
                )
            return None
        state, own = checkpoint.load_state(folder), self._run(identity)
        if folder != (its := self.checkpoint(state["step"])):
            raise CheckpointError(
                f"{folder} is the checkpoint of step {state['step']}: remove it, or name it {its.name}"
            )
        if changed := changes(own, {**dict.fromkeys(own), **state.get("run", {})}):
            raise CheckpointError(
                f"{folder} is a checkpoint of another run ({'; '.join(changed)}): remove it to continue from the "
                "one before it, or overwrite=True starts afresh"
            )
        return state

    @_writes
    def save_failed(self, step: int, tensors: dict[str, torch.Tensor]) -> Path:
        """The batch of an update that was not applied, for inspection with `safetensors.torch.load_file`."""
        target = self.path / "failed" / f"step_{step:06d}.safetensors"
        tensors = {k: v.contiguous() for k, v in tensors.items()}
        atomic_write(target, lambda scratch: save_file(tensors, scratch))
        return target

    @_writes
    def save_policy(self, write: Callable[[Path], None]) -> None:
        """The trained policy as a checkpoint folder of `transformers`."""
        atomic_write(self.path / "policy", lambda scratch: (scratch.mkdir(), write(scratch)))

    def _refuse_a_run(self, exists: bool) -> None:
        if exists and not (self.config.resume or self.config.overwrite):
            raise ConfigError(
                f"{self._name} already holds a run: resume=True continues it, overwrite=True starts it afresh"
            )

    @property
    def _name(self) -> str:
        return f"run_dir={self.config.run_dir!r}"

    def _read_identity(self) -> Identity:
        try:
            return Identity.read(self.path / "identity.json")
        except FileNotFoundError:
            raise ConfigError(
                f"{self._name} has no identity.json, which says what the run was made of: an earlier dgpo kept none. "
                "It cannot be resumed: overwrite=True starts afresh"
            ) from None

    def _config(self) -> Config | None:
        """The settings of the run in the folder, or None. A config.yaml of something else is an error."""
        path = self.path / "config.yaml"
        return configs.read_run(path) if path.exists() else None

    def _rewind(self, step: int, history: list[dict]) -> None:
        """Drop what was recorded after `step`, and left-overs of a kill; `history` holds the metrics up to `step`."""
        examples, unreadable = rows.readable(self.path / "completions.jsonl", step)
        if unreadable:  # completions are only for people to read: no reason to stop
            lines = ", ".join(map(str, unreadable))
            tell(f"{self.path}/completions.jsonl: dropped unreadable line {lines}")
        for name, kept in (("metrics.jsonl", history), ("completions.jsonl", examples)):
            atomic_write(self.path / name, lambda scratch, kept=kept: rows.append(scratch, kept))
        for made, path in _steps(self.path / "tokens", ".parquet"):
            if made > step:
                path.unlink()
        for path in (*self.path.glob(".*.partial"), *self.path.glob("*/.*.partial")):
            remove(path)


def _left_by_a_kill(path: Path) -> bool:
    """Whether a launcher, or a start killed before config.yaml, the last file it writes, leaves such a file."""
    if path.suffix == ".jsonl":
        return path.stat().st_size == 0
    return path.name in ("launch", ".lock", "identity.json") or path.name.endswith(".partial")


def _steps(folder: Path, suffix: str) -> list[tuple[int, Path]]:
    """(step, path) of a run's own entries in a folder; anything else there is ignored."""
    named = re.compile(rf"step_(\d{{6,}}){re.escape(suffix)}")
    return [(int(match[1]), path) for path in folder.glob("step_*") if (match := named.fullmatch(path.name))]
