"""Files and folders that appear whole or not at all, and belong to one process at a time."""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from dgpo.config import ConfigError


def write_whole(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file or folder under another name, and rename it to `target` when it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = partial(target)
    remove(scratch)
    try:
        write(scratch)
        if target.is_dir():
            remove(target)
        if scratch.exists():
            os.replace(scratch, target)
    finally:
        remove(scratch)


def partial(target: Path) -> Path:
    """Under what name `target` is made."""
    return target.parent / f".{target.name}.partial"


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def lock(folder: Path, name: str) -> IO:
    """Make a folder, and take it for this process until the returned file is closed.

    Raises ConfigError if another process has it, and where the file system knows no locks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(f"{name}: another process is running there") from None
    except OSError as error:
        file.close()
        raise ConfigError(f"{name}: its file system cannot lock a file ({error.strerror})") from None
    return file
