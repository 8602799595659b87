"""Checkpoints: written atomically, verified when read.

    checkpoints/step_000010/rank_00000.safetensors …   a shard of each rank (dgpo.run.zero_state)
                            state.json                 step, position, updates, ranks; each file's size and SHA-256

All ranks write into one temporary folder, which gets its name when the last rank has finished and all is on disk.
`damage` finds what was cut short, overwritten or lost later.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from dgpo.distributed import process_group
from dgpo.errors import Explained
from dgpo.files import file_hashes, make_folder, remove, sync, sync_entry, temporary_path
from dgpo.progress import tell


class CheckpointError(Explained, RuntimeError):
    """A checkpoint that cannot be written or is damaged; the message names it and the fault."""


def save(target: Path, state: dict, write: Callable[[Path], None], held: Callable[[], None]) -> None:
    """Every rank calls `write` on one new folder, which then becomes `target` with `state` in it.

    `held` raises if the run folder is no longer this run's: rank 0 calls it before it renames or removes anything.
    A rank's files carry its number, NAME_00003.safetensors. If anything fails on any rank, the unfinished folder is
    removed and every rank raises, CheckpointError on the rank that failed.
    """
    scratch = temporary_path(target)

    def own() -> None:
        try:
            write(scratch)
            for path in scratch.glob(f"*_{process_group.rank():05d}.*"):  # by the host that wrote it
                sync(path)
        except Exception as error:
            raise CheckpointError(
                f"{target} could not be written ({error}); the checkpoints before it are untouched"
            ) from error

    try:
        process_group.on_rank0(_make, scratch)
        process_group.gather_results(own)
        names = process_group.on_rank0(_names, scratch)
        digests = process_group.gather_results(_digests, scratch, names[process_group.local_slice(len(names))])
        process_group.on_rank0(
            _complete, scratch, target, state, {k: v for part in digests for k, v in part.items()}, held
        )
    finally:
        if process_group.rank() == 0:
            held()
            shutil.rmtree(scratch, ignore_errors=True)  # another rank may still be writing; the next save clears it


def load_state(folder: Path) -> dict:
    """The `state` given to `save`; call `damage` first."""
    return json.loads((folder / "state.json").read_text())


def heldout(folder: Path) -> float | None:
    """The held-out avg@k at a checkpoint; None if it was not measured, or the file is damaged."""
    try:
        return load_state(folder)["heldout"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def damage(folder: Path) -> str:
    """The fault of a damaged checkpoint; empty if it is whole."""
    try:
        state = load_state(folder)
        if not isinstance(state, dict) or state.pop("sha256") != _digest_of(state):
            return "state.json is damaged"
        files = state["files"]
    except (OSError, ValueError) as error:
        return f"state.json: {error}"
    except KeyError as error:
        return f"state.json has no {error}"
    for name, file in files.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if (size := (folder / name).stat().st_size) != file["bytes"]:
            return f"{name} has {size} bytes, not {file['bytes']}"
    changed = [name for name, digest in _digests(folder, [*files]).items() if digest != files[name]["sha256"]]
    return f"{', '.join(changed)} is damaged" if changed else ""


def newest_whole(folders: list[Path], run: Path, where: str) -> Path | None:
    """The newest whole checkpoint of a run, given all of them, oldest first; None if there are none.

    Moves damaged ones after it to failed/ in the run's folder, with a message. Raises CheckpointError that begins
    with `where` if none is whole.
    """
    damaged = {}
    for folder in reversed(folders):
        if not (complaint := damage(folder)):
            break
        damaged[folder] = complaint
    else:
        folder = None
    if not damaged:
        return folder
    what = "; ".join(f"{path.name}: {complaint}" for path, complaint in damaged.items())
    if not folder:
        raise CheckpointError(f"{where}: no checkpoint is whole ({what}); overwrite=True starts afresh")
    (run / "failed").mkdir(exist_ok=True)
    for path in damaged:
        remove(run / "failed" / path.name)
        path.rename(run / "failed" / path.name)
    tell(f"{run}: damaged and moved to failed/: {what}; going on from {folder.name}")
    return folder


def rotate(folders: list[Path], keep: int, keep_best: bool) -> None:
    """Remove checkpoints, given oldest first, but the newest `keep` and, with `keep_best`, that of the best avg@k."""
    kept = set(folders[-keep:])
    if keep_best:
        scores = {folder: heldout(folder) for folder in folders}
        if evaluated := [folder for folder in folders if scores[folder] is not None]:
            kept.add(max(evaluated, key=lambda folder: (scores[folder], folder)))
    for folder in folders:
        if folder not in kept:  # rename first: after a kill, a half-removed one does not count as a checkpoint
            remove(folder.rename(temporary_path(folder)))


def _make(scratch: Path) -> None:
    make_folder(scratch.parent)
    remove(scratch)
    scratch.mkdir()


def _names(scratch: Path) -> list[str]:
    return sorted(path.name for path in scratch.iterdir())


def _complete(scratch: Path, target: Path, state: dict, digests: dict[str, str], held) -> None:
    held()
    files = {name: {"bytes": (scratch / name).stat().st_size, "sha256": digests[name]} for name in digests}
    state = {**state, "files": files}
    (scratch / "state.json").write_text(json.dumps({**state, "sha256": _digest_of(state)}, indent=2) + "\n")
    sync(scratch / "state.json")
    sync_entry(scratch)
    held()
    remove(target)
    os.replace(scratch, target)
    sync_entry(target.parent)


def _digests(folder: Path, names: list[str]) -> dict[str, str]:
    return dict(zip(names, file_hashes([folder / name for name in names]), strict=True))


def _digest_of(state: dict) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
