"""The reference of all settings, for `python -m dgpo settings`, --help, the docs and editors. Imports no torch."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal, NamedTuple, Union, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from dgpo.config import Config
from dgpo.errors import ConfigError
from dgpo.evaluation.settings import EvalConfig
from dgpo.launch.settings import Launch
from dgpo.settings import GROUPS, RENAMED, RESUME, Settings, about, unknown
from dgpo.sweeps.definition import Sweep

COMMANDS: dict[str, type[Settings]] = {"train": Config, "launch": Launch, "eval": EvalConfig, "sweep": Sweep}


class Setting(NamedTuple):
    """A row of the reference. `name` of a nested setting is `tiny.hidden`."""

    name: str
    kind: str
    default: str
    unit: str
    description: str
    group: str
    resume: str


def settings_of(settings: type[Settings], prefix: str = "") -> Iterator[Setting]:
    """Every setting in the order of GROUPS, those within `tiny` and `vllm` after it."""
    order = [*GROUPS, ""]
    names = sorted(settings.model_fields, key=lambda name: order.index(about(settings, name)["group"]))
    for name in names:
        field, its = settings.model_fields[name], about(settings, name)
        inner = field.annotation
        nested = isinstance(inner, type) and issubclass(inner, Settings)
        default = "" if nested or field.is_required() else _text(field.default)
        kind = "" if nested else kind_of(field)
        yield Setting(prefix + name, kind, default, its["unit"], field.description or "", its["group"], its["resume"])
        if nested:
            yield from settings_of(cast(type[Settings], inner), f"{prefix}{name}.")


def kind_of(field: FieldInfo) -> str:
    """The allowed values of a setting: "integer ≥ 1", "none | drop | resample", "path or none"."""
    return _kind(field.annotation, field.metadata)


def reference(settings: type[Settings]) -> str:
    """All settings by group, for a terminal."""
    lines, group = [], None
    for row in settings_of(settings):
        if row.group != group:
            group = row.group
            lines += ["", f"{group or 'settings'}: {GROUPS.get(group, '')}".rstrip(": ")]
        default = f" = {row.default}" if row.default else ""
        unit = f" ({row.unit})" if row.unit else ""
        lines.append(f"  {row.name + default:<40} {row.description}{unit}")
    return "\n".join(lines[1:])


def one(name: str) -> str:
    """All about one setting, in each command that has it. Raises ConfigError for an unknown name."""
    found = [(command, row) for command, kind in COMMANDS.items() for row in settings_of(kind) if row.name == name]
    if not found:
        known = [row.name for row in settings_of(Config)]
        raise ConfigError(unknown(name, "…", known))
    lines = []
    for command, row in found:
        lines += [f"{row.name} ({command})", f"  {row.description}", f"  allowed   {row.kind or 'see ' + name + '.…'}"]
        lines += [f"  default   {row.default}"] if row.default else []
        lines += [f"  unit      {row.unit}"] if row.unit else []
        lines += [f"  resume    {RESUME[row.resume]}", ""]
    if old := [before for before, now in RENAMED.items() if now == name.rpartition(".")[2]]:
        lines.insert(-1, f"  formerly  {old[0]} (dgpo 0.1)")
    return "\n".join(lines).rstrip()


def markdown(settings: type[Settings]) -> str:
    """The reference as Markdown tables, a table for each group."""
    lines, group = [], None
    for row in settings_of(settings):
        if row.group != group:
            group = row.group
            lines += ["", f"### {group or 'fields'}", "", GROUPS.get(group, "").capitalize() + "." * bool(group), ""]
            lines += ["| setting | allowed | default | unit | what it is | on resume |", "|---|---|---|---|---|---|"]
        cells = (f"`{row.name}`", row.kind, f"`{row.default}`" if row.default else "", row.unit, row.description)
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in (*cells, row.resume)) + " |")
    return "\n".join(lines).strip() + "\n"


def schema(settings: type[Settings]) -> str:
    """The JSON schema by which editors check YAML files. Parameters of methods may stand beside the settings."""
    made = settings.model_json_schema()
    made["additionalProperties"] = True
    return json.dumps(made, indent=1, ensure_ascii=False)


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, str):
        return value.replace("\n", "\\n")
    return "" if value == {} else f"{value:g}" if isinstance(value, float) else str(value)


def _kind(kind: Any, marks: Any = ()) -> str:
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _kind(inner[0], [m for field in inner[1:] for m in getattr(field, "metadata", [field])])
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (list, tuple):
        return f"list of {' and '.join(dict.fromkeys(map(_kind, inner)))}"
    if origin is dict:
        return "mapping"
    if origin is Union or (inner and type(None) in inner):
        return " or ".join("none" if part is type(None) else _kind(part) for part in inner)
    name = {int: "integer", float: "number", bool: "true | false", str: "text"}.get(kind, "anything")
    return " ".join([name, *filter(None, map(_limit, marks))])


def _limit(mark: Any) -> str:
    """A bound as text, from the attribute that pydantic's marks have. Very large limits, which only guard against
    overflow, are left out."""
    for name, text in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"), ("min_length", "of at least")):
        bound = getattr(mark, name, None)
        if bound is not None and bound < 1e6:
            return f"{text} {bound:g}"
    return ""
