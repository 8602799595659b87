"""The definition of a sweep: a YAML file of factors whose levels are crossed, and the settings that all runs share.

    name: methods
    folder: runs/methods
    recipe: tiny
    settings: {steps: 40, updates: 16}          held equal
    factors:
      lr: [0.0003, 0.001]                       the values of one setting, or
      method:                                   named bundles of settings
        grpo+dual_clip: {method: grpo, dual_clip: 3}
        dgpo: {method: dgpo, n: 1, m: 2}
    seeds: [0, 1, 2]

A cell is one level of every factor. Its runs are `folder/CELL/seed_K/`, ordinary run folders.
"""

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field

from dgpo import config as configs
from dgpo.config import Config, ConfigError
from dgpo.plain import changes, path_text
from dgpo.settings import PathText, Seed, Settings, line, setting
from dgpo.written import read_mapping

_RESERVED = ("run_dir", "seed", "resume", "overwrite")  # the sweep sets these
_sweep = partial(setting, group="sweep")
_NAME = re.compile(r"[A-Za-z0-9_.+=-]+")
_LONGEST = 200  # characters of a cell's name; a file's has room for 255, and some get more round it
_OWN = ("sweep.yaml", "sweep.parquet", "report.md", "policies.json", "data.json", "figures")  # beside its cells


class Sweep(Settings):
    """One sweep, as its file defines it. Each level of a factor is a bundle of settings."""

    name: Annotated[str, Field(pattern=f"^{_NAME.pattern}$")] = _sweep(description="name of the sweep")
    folder: PathText = _sweep(description="its folder: a run of each cell and seed, the table, the report")
    recipe: PathText = _sweep("tiny", description="recipe of all runs")
    settings: dict[str, Any] = _sweep({}, description="settings that all runs share")
    factors: dict[str, list[Any] | dict[str, dict[str, Any]]] = _sweep(
        description="what is crossed: values of a setting, or named bundles of settings", min_length=1
    )
    seeds: list[Seed] = _sweep(description="seeds of each cell", min_length=1)

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def cells(self) -> list["Cell"]:
        """Every combination of levels, the last factor changing fastest."""
        levels = [levels_of(name, values) for name, values in self.factors.items()]
        return [
            Cell(
                name=",".join(level for level, _ in combination),
                levels=dict(zip(self.factors, (level for level, _ in combination), strict=True)),
                settings=_merge(self, combination),
            )
            for combination in itertools.product(*levels)
        ]

    def config(self, cell: "Cell", seed: int) -> Config:
        """The settings of one run. Raises ConfigError with the cell's name if the trainer would reject them."""
        try:
            settings = {**self.settings, **cell.settings}
            return configs.load(self.recipe, **settings, seed=seed, run_dir=str(self.run_dir(cell, seed)), resume=True)
        except ConfigError as error:
            raise ConfigError(f"cell {cell.name!r}: {error}") from None

    def run_dir(self, cell: "Cell", seed: int) -> Path:
        return self.path / cell.name / f"seed_{seed}"

    def runs(self, shard: tuple[int, int] = (1, 1), only: str | None = None) -> list["Run"]:
        """All runs, or those of the cell `only`; of them the i-th of n parts, every n-th run, so that parts are alike.

        All cells with the first seed come before any with the second, so that an unfinished sweep compares them all.
        Raises ConfigError for an unknown cell.
        """
        cells = [cell for cell in self.cells if only in (None, cell.name)]
        if not cells:
            raise ConfigError(f"cell {only!r} must be one of: {', '.join(cell.name for cell in self.cells)}")
        runs = [Run(cell, seed, self.config(cell, seed)) for seed in self.seeds for cell in cells]
        return runs[shard[0] - 1 :: shard[1]]


@dataclass(frozen=True)
class Cell:
    """One level of every factor: `levels` by factor, and the settings that they stand for."""

    name: str
    levels: dict[str, str]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One cell with one seed; `config` as the trainer is given it."""

    cell: Cell
    seed: int
    config: Config

    @property
    def path(self) -> Path:
        return Path(self.config.run_dir)

    @property
    def name(self) -> str:
        return f"{self.cell.name} seed {self.seed}"


def load(path: str | PathLike, **overrides) -> Sweep:
    """The sweep in a file, with overrides: fields of `Sweep`, or settings that all runs share.

    The sweep.yaml of a folder that a sweep has run in is that of the folder which holds it, wherever that is now.
    Raises ConfigError for a sweep that cannot run: an unknown field or setting, a factor that is no setting,
    two cells with one name or with the same settings, a setting that two places decide.
    """
    fields = read_mapping(path_text(path), "sweep")
    if "folder" not in overrides and _is_record(Path(path_text(path))):
        overrides["folder"] = str(Path(path_text(path)).parent)
    return make(fields, path_text(path), **overrides)


def _is_record(path: Path) -> bool:
    """Whether a file is the one that a sweep has written into its folder."""
    beside = [path.with_name(name) for name in (".running", "policies.json")]
    return path.name == "sweep.yaml" and (
        any(map(Path.exists, beside)) or any(path.parent.glob("*/seed_*/config.yaml"))
    )


def make(fields: dict[str, Any], path: str | Path = "sweep", **overrides) -> Sweep:
    """The sweep of the fields that a file would have; as `load`. `path` is what errors call it."""
    fields = dict(fields)
    own = {name: value for name, value in overrides.items() if name in Sweep.model_fields}
    settings = {name: value for name, value in overrides.items() if name not in own}
    fields |= own
    if settings:
        fields["settings"] = {**(fields.get("settings") or {}), **settings}
    try:
        sweep = Sweep(**fields)
    except pydantic.ValidationError as error:
        known = ", ".join(Sweep.model_fields)
        raise ConfigError("\n".join(f"{path}: {_line(e)} (a sweep has: {known})" for e in error.errors())) from None
    _validate(sweep)
    return sweep


def dump(sweep: Sweep, path: Path) -> None:
    configs.dump(sweep, path)


def differences(before: Sweep, now: Sweep) -> list[str]:
    """What keeps `now` from going on in the folder of `before`: a cell that is gone or whose settings changed.

    More cells and more seeds may come: a sweep can grow.
    """
    cells, found = {cell.name: cell for cell in now.cells}, []
    for old in before.cells:
        if old.name not in cells:
            found.append(f"cell {old.name!r} is gone")
            continue
        left, right = (comparable(sweep.config(cell, 0)) for sweep, cell in ((before, old), (now, cells[old.name])))
        found += [f"cell {old.name!r}, {change}" for change in changes(left, right)]
    return found + [f"seed {seed} is gone" for seed in before.seeds if seed not in now.seeds]


def comparable(config: Config) -> dict[str, Any]:
    """The settings that decide a run's numbers, the seed excepted."""
    return config.model_dump(exclude=Config.resumable("free") | {"seed"})


def levels_of(factor: str, values: list | dict[str, dict]) -> list[tuple[str, dict[str, Any]]]:
    """(name, settings) of every level of a factor; a value `v` of the setting `lr` is named `lr=v`."""
    if isinstance(values, dict):
        return [*values.items()]
    plain = [f"{factor}={str(value).lower() if isinstance(value, bool) else value}" for value in values]
    return [(name, {factor: value}) for name, value in zip(plain, values, strict=True)]


def method_levels(keys: Sequence[str], **held) -> dict[str, dict[str, Any]]:
    """Levels of a factor of methods, each with those of the parameters `held` that it has: {key: settings}."""
    from dgpo import methods

    return {key: {"method": key} | {k: v for k, v in held.items() if k in methods.get(key).params()} for key in keys}


def parse_shard(text: str) -> tuple[int, int]:
    """`i/n`, the i-th of n parts, 1 ≤ i ≤ n."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    i, n = map(int, match.groups()) if match else (0, 0)
    if not 1 <= i <= n:
        raise ConfigError(f"shard={text!r} must be i/n with 1 ≤ i ≤ n, such as 1/4")
    return i, n


def _validate(sweep: Sweep) -> None:
    for name, values in sweep.factors.items():
        levels = [level for level, _ in levels_of(name, values)]
        if not levels:
            raise ConfigError(f"factor {name!r} has no levels")
        if bad := [level for level in levels if not _NAME.fullmatch(level)]:
            raise ConfigError(
                f"factor {name!r}: {bad[0]!r} cannot name a folder; name its levels: {{LEVEL: {{setting: value}}}}, "
                "in letters, digits and _ . + = -"
            )
        if bad := [level for level in levels if level.startswith(".") or level.lower() in _OWN]:
            raise ConfigError(
                f"factor {name!r}: level {bad[0]!r} needs another name: the sweep keeps those that begin with a full "
                f"stop, and {', '.join(_OWN)}, for its own files"
            )
    for where, settings in [("settings", sweep.settings), *((c.name, c.settings) for c in sweep.cells)]:
        if taken := [name for name in settings if name in _RESERVED]:
            raise ConfigError(f"{where}: {taken[0]} is set by the sweep itself, from folder and seeds")
    cells = sweep.cells
    if long := [cell for cell in cells if len(cell.name) > _LONGEST]:
        factor, level = max(long[0].levels.items(), key=lambda item: len(item[1]))
        raise ConfigError(
            f"a cell's name has {len(long[0].name)} characters and may have {_LONGEST}, as it names a folder; the "
            f"longest level in it is {level[:30]!r}…, {len(level)} characters, of factor {factor!r}"
        )
    if twice := [name for name, count in Counter(cell.name for cell in cells).items() if count > 1]:
        raise ConfigError(f"two cells are named {twice[0]!r}")
    if twice := [seed for seed, count in Counter(sweep.seeds).items() if count > 1]:
        raise ConfigError(f"seeds={sweep.seeds}: {twice[0]} is named twice")
    seen: dict[str, str] = {}
    for cell in cells:
        settings = repr(comparable(sweep.config(cell, 0)))
        if settings in seen:
            raise ConfigError(f"cells {seen[settings]!r} and {cell.name!r} have the same settings")
        seen[settings] = cell.name


def _merge(sweep: Sweep, combination) -> dict[str, Any]:
    merged, origin = {}, dict.fromkeys(sweep.settings, "settings")
    for factor, (_, settings) in zip(sweep.factors, combination, strict=True):
        for name, value in settings.items():
            if name in origin:
                raise ConfigError(f"{name} is set by factor {factor!r} and by {origin[name]}: it can be set by one")
            merged[name], origin[name] = value, f"factor {factor!r}"
    return merged


def _line(error) -> str:
    return f"{error['loc'][0]} is missing" if error["type"] == "missing" else line(error)
