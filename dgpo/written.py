"""Settings as users write them: YAML files, and `key=value` on the command line.

YAML is read the way people write settings: 010 is ten, 1:30 and 2024-05-01 are text, a key may occur once in a mapping.
Everything else is YAML 1.1, so what `yaml.safe_dump` writes is read back unchanged.
"""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import yaml

from dgpo.errors import ConfigError, first_line


def read_mapping(path: str | Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ConfigError whose message begins with `what` and the file."""
    named = f"{what} {str(path)!r}"
    try:
        found = yaml.load(Path(path).read_text("utf-8-sig"), _Loader)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{named} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{named} cannot be read: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{named} is not valid YAML: {_reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{named} is not valid YAML: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{named} must be a mapping of settings, not {type(found).__name__}")
    return found


def read_words(words: list[str], texts: Collection[str] = ()) -> dict[str, Any]:
    """Settings from words `key=value`, with values read as YAML; unquoted values of `texts` stay as typed.

    Raises ConfigError for other words, for values that are not YAML, and for a key given twice.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, typed = word.partition("=")
        if not equals or not name:
            raise ConfigError(f"{word!r} is not of the form key=value")
        if name in values:
            raise ConfigError(f"{name} is set twice, the second time by {word!r}")
        try:
            as_typed = name in texts and typed[:1] not in ("", "'", '"') and typed != "null"
            values[name] = typed if as_typed else yaml.load(typed, _Loader)
        except (yaml.YAMLError, ValueError, RecursionError):
            raise ConfigError(f"{name}={typed!r} is not a YAML value") from None
    return values


class _Loader(yaml.SafeLoader):
    """SafeLoader with fewer surprises; see the module."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key in [key for key, _ in node.value if key.tag != _MERGE]:
            name = str(self.construct_object(key, deep=True))
            if name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{name!r} occurs twice in one mapping", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep)


_INT, _BOOL, _FLOAT, _TIME, _MERGE = (
    f"tag:yaml.org,2002:{name}" for name in ("int", "bool", "float", "timestamp", "merge")
)
_REPLACED = {
    _INT: r"[-+]?(?:0|[1-9][0-9]*)",
    _FLOAT: r"[-+]?(?:(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+][0-9]+)?|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)",
    _BOOL: "true|True|TRUE|false|False|FALSE",
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in known if tag not in (*_REPLACED, _TIME)]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _tag, _pattern in _REPLACED.items():
    _Loader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern})$"), list("-+.0123456789tTfF"))


def _reason(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    return f"{getattr(error, 'problem', None) or first_line(error)}{where}"
