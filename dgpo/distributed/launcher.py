"""What a launcher (torchrun, deepspeed) sets in the environment: this process's rank, and the number of ranks.

Checked before any slow import: variables left over from an earlier launcher are a common mistake, and the collectives'
own errors do not name them.
"""

import os
from collections.abc import Mapping

from dgpo.errors import ConfigError

_WAY_OUT = "without a launcher, unset RANK WORLD_SIZE LOCAL_RANK"


def rank(environ: Mapping[str, str] = os.environ) -> int:
    """RANK; 0 without a launcher, or if it is not a number: that process then prints the error of `check`."""
    return _number(environ.get("RANK", "0")) or 0


def size(environ: Mapping[str, str] = os.environ) -> int:
    """WORLD_SIZE; 1 without a launcher."""
    return _number(environ.get("WORLD_SIZE", "1")) or 1


def started(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process."""
    return "RANK" in environ


def is_parent(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is a child of the launcher on its host, as torchrun's and deepspeed's ranks are."""
    return started(environ) and ("TORCHELASTIC_RUN_ID" in environ or "CROSS_RANK" in environ)


def check(environ: Mapping[str, str] = os.environ) -> None:
    """Raise ConfigError for variables that no launcher would set so, with their values and the way out."""
    for name, least in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 1)):
        number = _number(environ.get(name, "1"))
        if number is None or number < least:
            raise ConfigError(f"{name}={environ[name]!r} must be a whole number of at least {least}; {_WAY_OUT}")
    told = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name in environ]
    said = " ".join(f"{name}={environ[name]}" for name in told)
    if not started(environ):
        if size(environ) > 1 or _number(environ.get("LOCAL_RANK", "0")):
            raise ConfigError(f"{said}, but no RANK: a launcher sets them all; {_WAY_OUT}")
        return
    if missing := [n for n in ("WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT") if not environ.get(n)]:
        raise ConfigError(f"{said}, but no {' or '.join(missing)}: a launcher sets them all; {_WAY_OUT}")
    if not _number(environ["MASTER_PORT"]):
        raise ConfigError(f"{said}: MASTER_PORT must be a port number; {_WAY_OUT}")
    if rank(environ) >= size(environ):
        raise ConfigError(f"{said}: RANK must be below WORLD_SIZE; {_WAY_OUT}")


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() else None
