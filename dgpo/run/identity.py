"""What a run, a sweep or an evaluation was made of: recorded at the start, compared at every resume.

    data         SHA-256 of each file of problems and of worked examples; for a hub dataset, of its rows
    model        SHA-256 of each file of the start policy; for a hub model, the revision
    prompts      SHA-256 of the held-out problems with their answers, as the policy sees them
    code         dgpo's version, and the SHA-256 of the source of a method from elsewhere
    parameters   the shape of each parameter

A change is an error that names it. The setting `accept_changes` lists the kinds that may change, and the record keeps
what was accepted. A library of another version only changes rounding, which is reported.
"""

import hashlib
import importlib.metadata
import importlib.util
import inspect
import json
import re
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from torch import nn

from dgpo import __version__
from dgpo.errors import ConfigError
from dgpo.files import file_hashes
from dgpo.progress import tell

FILES = ("data", "eval_data", "examples")  # the settings that name files of problems
MadeOf = dict[str, dict[str, str]]  # kind → item → what it is

_PACKAGES = ("torch", "transformers", "deepspeed", "numpy")
_MODEL_FILES = (".safetensors", ".bin", ".json", ".jinja", ".model", ".tiktoken", ".py")
_MODEL_NAMES = ("vocab.txt", "merges.txt")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Change(NamedTuple):
    """One item that has changed; None where it is absent."""

    kind: str
    item: str
    before: str | None
    now: str | None


class Identity(BaseModel):
    """The record. `id` is random: a copy of a folder keeps it, no other run has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    made_of: MadeOf
    versions: dict[str, str]
    accepted: list[dict[str, Any]] = []

    @field_validator("accepted")
    @classmethod
    def _whole(cls, accepted: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for entry in accepted:
            lost = entry.get("lost") if entry.get("what") == "metrics" else []
            if "what" not in entry or not isinstance(lost, list):
                raise ValueError(f"{entry} lacks what was accepted, or the list of steps that were lost")
        return accepted

    @classmethod
    def new(cls, made_of: MadeOf) -> "Identity":
        return cls(id=uuid.uuid4().hex, made_of=made_of, versions=versions())

    @classmethod
    def read(cls, path: Path) -> "Identity":
        """The record in a file. Raises FileNotFoundError, or ConfigError for a file that holds something else."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            place = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
            raise ConfigError(f"{path} is damaged: {place}{first['msg']}; overwrite=True starts afresh") from None

    def check(
        self,
        made_of: MadeOf,
        where: str,
        *,
        accept: Sequence[str] = (),
        acceptable: Sequence[str] = (),
        names: Mapping[str, str] | None = None,
    ) -> list[Change]:
        """The changes since the record was made, all of them accepted.

        where         the beginning of the error, such as `run_dir='runs/a'`
        acceptable    the kinds that the setting accept_changes may list, for the way out
        names         the name of an item in the error

        Raises ConfigError that names each changed kind that `accept` does not list.
        """
        found = changes(self.made_of, made_of)
        if refused := [change for change in found if change.kind not in accept]:
            raise ConfigError(f"{where}: {_told(refused, names or {})}; {_way_out(refused, accept, acceptable)}")
        return found

    def going_on(self, made_of: MadeOf, accepted: Iterable[Change], where: str, **place) -> "Identity":
        """The record of a run resumed with `made_of`; each accepted change keeps its place, such as `step=10`.

        Reports libraries whose version has changed.
        """
        libraries = changes({"versions": self.versions}, {"versions": versions()})
        if libraries:
            others = ", ".join(f"{c.item} {c.before} → {c.now}" for c in libraries)
            tell(f"{where}: from here on, sums may round differently: {others}")
        kept = [
            {**place, "what": c.kind, "item": c.item, "from": c.before, "to": c.now} for c in (*accepted, *libraries)
        ]
        return self.model_copy(update={"made_of": made_of, "versions": versions()}).noting(*kept)

    def noting(self, *accepted: dict[str, Any]) -> "Identity":
        """The record with further accepted changes."""
        return self.model_copy(update={"accepted": [*self.accepted, *accepted]})


def changes(before: MadeOf, now: MadeOf) -> list[Change]:
    """The items that differ between `before` and `now`, kind by kind."""
    return [
        Change(kind, item, old.get(item), new.get(item))
        for kind in before | now
        for old, new in [(before.get(kind, {}), now.get(kind, {}))]
        for item in old | new
        if old.get(item) != new.get(item)
    ]


def of_run(config, method, source: str | Path, policy: nn.Module, task) -> MadeOf:
    """What a run is made of; `source` is the checkpoint of its start policy."""
    return {
        "data": of_data({name: getattr(config, name) for name in FILES}),
        "model": of_model(source, policy.lm),
        "prompts": {"the held-out problems": of_problems(task.heldout)},
        "code": of_code(config.method, type(method)) | of_modules([config.task, *config.reward]),
        "parameters": of_parameters(policy),
    }


def of_data(files: Mapping[str, str | Path | None]) -> dict[str, str]:
    """The hash of each file or hub dataset by its name in `files`; None is left out."""
    given = {name: Path(path) for name, path in files.items() if path is not None}
    there = {name: path for name, path in given.items() if path.is_file()}
    hashes = dict(zip(there, file_hashes([*there.values()]), strict=True))
    return {name: hashes[name] if name in hashes else _of_rows(str(files[name])) for name in given}


def of_model(source: str | Path, lm=None) -> dict[str, str]:
    """The hashes of a checkpoint folder's weights, configuration, tokenizer and code, or of a GGUF file; the revision
    of a hub model."""
    folder = Path(source)
    if folder.is_file():
        return dict(zip([folder.name], file_hashes([folder]), strict=True))
    if not folder.is_dir():
        return {str(source): str(getattr(getattr(lm, "config", None), "_commit_hash", None))}
    files = sorted(path for path in folder.iterdir() if path.suffix in _MODEL_FILES or path.name in _MODEL_NAMES)
    files = [path for path in files if path.is_file()]
    return dict(zip((path.name for path in files), file_hashes(files), strict=True))


def of_problems(problems: Iterable) -> str:
    """The hash of problems as the policy sees them, with their answers."""
    return _sha256(json.dumps([(p.prompt, p.answer) for p in problems]))


def of_code(name: str = "", method: type | None = None) -> dict[str, str]:
    """dgpo's version, and the hash of the source of a method from elsewhere: of its module if `name` is
    module:Class, else of the class itself, registered in a notebook."""
    found = {"dgpo": __version__}
    if method and method.__module__.partition(".")[0] != "dgpo":
        try:
            source = inspect.getsource(sys.modules[method.__module__] if ":" in name else method)
        except (OSError, TypeError):  # typed into an interpreter
            source = None
        found[name] = _sha256(source) if source else "source unknown"
    return found


def of_modules(names: Iterable[str]) -> dict[str, str]:
    """The hash of the source of the module of each module:name."""
    found = {}
    for name in (name for name in names if ":" in name):
        spec = importlib.util.find_spec(name.partition(":")[0])
        origin = Path(spec.origin) if spec and spec.origin else None
        found[name] = file_hashes([origin])[0] if origin and origin.is_file() else "source unknown"
    return found


def of_parameters(module: nn.Module) -> dict[str, str]:
    """The shape of each parameter; the full shape if ZeRO-3 has partitioned it."""
    return {name: str(list(getattr(p, "ds_shape", p.shape))) for name, p in module.named_parameters()}


def versions() -> dict[str, str]:
    """The versions of the libraries that decide how sums round."""
    return {name: importlib.metadata.version(name) for name in _PACKAGES}


def digest(items: Mapping[str, str]) -> str:
    """One hash of the result of an `of_…` function."""
    return _sha256(json.dumps(items, sort_keys=True))


def _of_rows(name: str) -> str:
    from dgpo.data.files import read_rows

    found = hashlib.sha256()
    for row in read_rows(name):
        found.update(json.dumps(row.fault or row.values, sort_keys=True, default=str).encode())
    return found.hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _told(found: Sequence[Change], names: Mapping[str, str]) -> str:
    """`model: config.json changed since the start (sha256 12ab34cd… → 56ef78ab…), and so did 2 more`, kind by kind."""
    parts = []
    for kind in dict.fromkeys(change.kind for change in found):
        first, *more = (change for change in found if change.kind == kind)
        name, both = names.get(first.item, first.item), [v or "none" for v in (first.before, first.now)]
        hashed = "sha256 " if any(map(_SHA256.fullmatch, both)) else ""
        before, now = (f"{value[:8]}…" if _SHA256.fullmatch(value) else value for value in both)
        others = f", and so did {len(more)} more" if more else ""
        parts.append(f"{kind}: {name} changed since the start ({hashed}{before} → {now}){others}")
    return "; ".join(parts)


def _way_out(refused: Sequence[Change], accept: Sequence[str], acceptable: Sequence[str]) -> str:
    kinds = [*dict.fromkeys(change.kind for change in refused)]
    afresh = "overwrite=True starts afresh"
    if {*kinds} <= {*acceptable}:
        return f"accept_changes=[{', '.join([*accept, *kinds])}] accepts that, {afresh}"
    return afresh
