"""Errors that are not bugs: the one line each prints, and its exit code (EXIT_CODES).

An exception whose own message says everything is an `Explained`. `explain` covers the others that a user's environment
can cause: files and disks, memory, and the code of the user's own method or task.
"""

import contextlib
import errno
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

EXIT_CODES = """exit codes:
  0    done
  1    the plan does not fit; a run of the sweep failed; or a bug, with its traceback
  2    the settings, the data or a folder are at fault
  3    the run failed: the disk is full, another rank died; resume=true continues it
  4    it diverged: a loss, a gradient or a metric became NaN or infinite
  130  interrupted (Ctrl-C)
  141  the reader of its output went away
DGPO_TRACEBACK=1 shows where an error came from."""
MISTAKE, FAILED, DIVERGED = 2, 3, 4
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_PLACE = (
    errno.EEXIST,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)
_RUST = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers report an OSError


class Explained(Exception):
    """An error whose message names the culprit and the way out: one line, no traceback."""

    exit_code = FAILED

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook."""
        if os.environ.get("DGPO_TRACEBACK"):
            return traceback.format_exception(self)
        return [f"{type(self).__name__}: {self}" + "".join(f" ({note})" for note in _notes(self))]


class ConfigError(Explained, ValueError):
    """A setting that is unknown or out of range; the message names it, its value and what is allowed."""

    exit_code = MISTAKE


def mark_common(error: BaseException, common: bool = True) -> None:
    """Mark an error that every rank raises: only the first prints it, and no rank is named."""
    vars(error)["is_common"] = common


class PlaceError(Explained):
    """A file or folder, named by a setting or variable, that cannot be used."""


def explain(error: BaseException, places: Mapping[str, str | Path] | None = None) -> tuple[str, int] | None:
    """(message, exit code) of an error that is not a bug of dgpo's own; None for a bug.

    places    the name that messages use for a path, and the path: {"run_dir='runs/a'": "runs/a"}
    """
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    where = "" if getattr(error, "is_common", False) else "".join(f" ({note})" for note in _notes(error))
    if isinstance(error, Explained):
        return str(error) + where, error.exit_code
    if (failure := _os_error(error)) is not None:
        said, code = _place(failure, places or {})
        return said + where, code
    if isinstance(error, MemoryError):
        return f"out of memory: {error}", FAILED
    if (own := own_code(error)) is not None:
        return f"{own}: {type(error).__name__}: {first_line(error)}", FAILED
    return None


def report(error: BaseException, places: Mapping[str, str | Path] | None = None, silent: bool = False) -> int:
    """Print the message of `explain` on stderr, unless `silent`. Returns the exit code; re-raises a bug.

    With DGPO_TRACEBACK in the environment the traceback comes first.
    """
    if (explained := explain(error, places)) is None:
        raise error
    said, code = explained
    if os.environ.get("DGPO_TRACEBACK"):
        traceback.print_exception(error)
    if not silent:
        with contextlib.suppress(OSError, ValueError):  # a closed terminal changes no exit code
            print(said if code == 130 else f"error: {said}", file=sys.stderr, flush=True)
    return code


@contextlib.contextmanager
def blaming(place: str, path: str | Path, way_out: str = "") -> Iterator[None]:
    """Turn an OSError into a PlaceError that blames `place`, which is at `path`, and ends with the way out."""
    try:
        yield
    except Exception as error:
        if isinstance(error, Explained) or (failure := _os_error(error)) is None:
            raise
        said, code = _place(failure, {place: path}, only=True)
        blamed = PlaceError(said + way_out)
        blamed.exit_code = code
        raise blamed from error


def os_error(error: BaseException, path: str | Path) -> BaseException:
    """`error`; or, if it comes from a system call and names no file, an OSError that names `path`."""
    failure = _os_error(error)
    if failure is None or failure.filename is not None or failure.errno is None:
        return error
    return OSError(failure.errno, failure.strerror, str(path))


def _os_error(error: BaseException) -> OSError | None:
    if isinstance(error, OSError):
        return error
    found = _RUST.search(str(error))
    return OSError(int(found[1]), os.strerror(int(found[1]))) if found else None


def _place(error: OSError, places: Mapping[str, str | Path], only: bool = False) -> tuple[str, int]:
    """(message, exit code) of a system call's error. With `only`, the one place is to blame wherever the file is."""
    code = MISTAKE if error.errno in _PLACE else FAILED
    how = "cannot be written to" if error.errno in _DISK else "cannot be used"
    named = isinstance(error.filename, str | bytes | os.PathLike)  # it can be a file descriptor
    path = os.path.abspath(os.fsdecode(error.filename)) if named else None
    why = error.strerror or first_line(error)
    above = {name: os.path.abspath(place) for name, place in places.items()}
    if not only and path is not None:
        above = {name: place for name, place in above.items() if f"{path}/".startswith(f"{place.rstrip('/')}/")}
    if not above:
        return (why if path is None else f"{path!r} {how}: {why}"), code
    name = max(above, key=lambda name: len(above[name])) if path is not None else next(iter(above))
    return f"{name} {how}: {why}" + (f" ({path})" if path not in (None, above[name]) else ""), code


def own_code(error: BaseException) -> str | None:
    """The line of the user's own code, a method or task, that an error came from."""
    libraries = (*map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")), str(Path(__file__).parent))
    if isinstance(error, SyntaxError) and error.filename and not error.filename.startswith(libraries):
        return f"{error.filename}, line {error.lineno}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((*libraries, "<"))]
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}" if frames else None


def _notes(error: BaseException) -> list[str]:
    """The rank of an error and where that rank was (dgpo.distributed.process_group.error_scope)."""
    return [note for note in getattr(error, "__notes__", ()) if note.startswith("rank ")]


def one_line(error: BaseException) -> str:
    """An error's type and its whole text, in one line."""
    return f"{type(error).__name__}: {error}".replace("\n", " ")


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its type if it has no text."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
