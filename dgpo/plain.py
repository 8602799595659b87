"""Settings as plain values: Python's own instead of numpy's and pathlib's. Imports the standard library only."""

import importlib
import os
from numbers import Integral, Real
from typing import Any

from dgpo.errors import ConfigError


def plain(value: Any) -> Any:
    """The same value as Python's own numbers, strings and lists: for numpy's numbers and arrays, and for paths."""
    known: type
    kind: Any
    for known, kind in ((bool, bool), (Integral, int), (Real, float), (str, str)):
        if isinstance(value, known):
            return kind(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist") and hasattr(value, "dtype"):  # an array, a boolean of numpy
        return value.tolist()
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return value


def has_boolean(value: Any) -> bool:
    """Whether a plain value, or an item of a list, is true or false."""
    return isinstance(value, bool) or (isinstance(value, list) and any(isinstance(item, bool) for item in value))


def number(value: Any) -> Any:
    """A plain value, or the number that a text is: YAML 1.1 and the command line give 3e-4 and inf as text."""
    try:
        return float(value) if isinstance(value, str) else plain(value)
    except ValueError:
        return value


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What `now` has otherwise than `before`, as `name: before → now`."""
    return [f"{name}: {value!r} → {now[name]!r}" for name, value in before.items() if value != now[name]]


def locate(name: str):
    """Import what `module:Name` names. Raises ValueError that says which part is missing."""
    module, attribute = name.split(":", 1)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: no module named {error.name!r} from here") from None
    if not hasattr(found, attribute):
        raise ValueError(f"{name}: module {module!r} has no {attribute!r}")
    return getattr(found, attribute)


def path_text(value: str | os.PathLike) -> str:
    """A path as text, with `~` and `~user` as the home folder. Raises ConfigError for text that cannot be a path."""
    text = os.fspath(value)
    expanded = os.path.expanduser(text)
    if expanded.startswith("~"):
        raise ConfigError(f"{text!r} names a home folder that does not exist; ./{text} is a path in the current folder")
    if "\0" in text or not _is_utf8(text):
        raise ConfigError(f"{text!r} cannot be a path: it is not valid UTF-8 or contains NUL")
    return expanded


def text_encoding(name: str) -> str:
    """`name` unchanged, if it names a text codec. Raises ValueError for any other name."""
    try:
        "a".encode(name)
    except (LookupError, ValueError):
        raise ValueError("must be one of Python's text codecs, such as utf-8, utf-16, cp1252 or gb18030") from None
    return name


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
