"""Atomic files and folders that survive a power failure, and locks that give a folder to one process at a time."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

from dgpo.errors import ConfigError, Explained, os_error


class FolderLost(Explained):
    """A folder that is no longer the one this process locked: a write would now land in another process's files."""


class Busy(ConfigError):
    """A folder that another process has locked."""


def atomic_write(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file or folder under a temporary name, then rename it to `target`.

    The content is on disk before the rename, and the rename before this returns.
    """
    make_folder(target.parent)
    scratch = temporary_path(target)
    remove(scratch)
    try:
        write(scratch)
        if scratch.exists():
            sync(scratch)
            if target.is_dir():
                remove(target)
            os.replace(scratch, target)
            sync_entry(target.parent)
    except Exception as error:
        named = os_error(error, target)
        if named is error:
            raise
        raise named from error
    finally:
        remove(scratch)


def write_text(target: Path, text: str) -> None:
    """Write a text and a final newline, whole or not at all."""
    atomic_write(target, lambda scratch: scratch.write_text(f"{text}\n"))


def make_folder(folder: Path) -> None:
    """Make a folder and its missing parents."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_entry(path.parent)


def check_place(folder: Path, name: str) -> None:
    """Raise ConfigError unless `folder`, called `name`, is a writable folder or can be made."""
    for path in (folder, *folder.absolute().parents):
        if path.is_symlink() and not path.exists():
            raise ConfigError(f"{name} cannot be made: {str(path)!r} is a link to nothing")
        if path.exists():
            if not path.is_dir():
                raise ConfigError(f"{name} is a file" if path == folder else f"{name}: {str(path)!r} is a file")
            if not os.access(path, os.W_OK | os.X_OK):
                raise ConfigError(f"{name} cannot be written to: no permission for {str(path)!r}")
            return


def sync(path: Path) -> None:
    """Wait until a file, or a folder with everything in it, is on disk."""
    if path.is_dir() and not path.is_symlink():
        for inside in path.iterdir():
            sync(inside)
    sync_entry(path)


def sync_entry(path: Path) -> None:
    """Wait until a file's content, or the list of names in a folder, is on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot sync folders
            raise
    finally:
        os.close(handle)


def temporary_path(target: Path) -> Path:
    """The temporary name of `target` while it is being written."""
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


def file_hashes(paths: Sequence[Path]) -> list[str]:
    """SHA-256 of each file's content, several at a time."""
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        return [*pool.map(file_hash, paths)]


class Lock:
    """A folder that is this process's until `close`, or the end of a `with`."""

    def __init__(self, folder: Path, name: str, file: IO):
        self.folder, self.name, self._file = folder, name, file
        self._handle = os.open(folder, os.O_RDONLY)  # while it is open, no new folder can get its inode

    def check(self) -> None:
        """Raise FolderLost if the folder, or its .lock, is no longer the one that was locked.

        Call it before each write: a write by path would land in a folder that another process has since made there.
        """
        try:
            same = os.path.samestat(os.stat(self.folder), os.fstat(self._handle))
            same = same and os.path.samestat(os.stat(self.folder / ".lock"), os.fstat(self._file.fileno()))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                raise
            same = False
        if not same:
            raise FolderLost(
                f"{self.name} was moved, removed or replaced while this process was using it; the process stops and "
                "writes nothing more there"
            )

    def close(self) -> None:
        if not self._file.closed:
            self._file.close()
            os.close(self._handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def lock(folder: Path, name: str) -> Lock:
    """Make a folder, and lock it for this process until the returned lock is closed.

    Raises Busy if another process has it, and ConfigError where the file system does not support locks.
    """
    make_folder(folder)
    file = (folder / ".lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise Busy(f"{name}: another process is using it") from None
    except OSError as error:
        file.close()
        raise ConfigError(f"{name}: its file system does not support locks ({error.strerror})") from None
    held = Lock(folder, name, file)
    held.check()  # it may have been removed in between
    return held
