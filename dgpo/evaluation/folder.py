"""An evaluation is a folder: `config.yaml manifest.json problems.parquet completions/<benchmark>/rows_000000.parquet
per_problem.parquet results.json`.

    manifest.json      what the evaluation was made of (dgpo.run.identity); the number of problems of each benchmark;
                       the hash of problems.parquet; the n it was made with, and larger ones it was resumed with, whose
                       completions are in files `n16_rows_000000.parquet`
    problems.parquet   benchmark, index, id, prompt, answer; with rewards of your own also row, the columns as JSON
    completions        index, sample, seed, text, tokens, length, finished, verdict, answer; problem by problem. Every
                       file carries the id of the evaluation and the hashes of the policy and the benchmark
    results.json       a summary of each benchmark, per_problem.parquet one of each problem; written at the end

Files are written atomically, so an interrupted evaluation resumes at the first missing one. One process at a time has
the folder.
"""

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet as parquet
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from dgpo.config import dump
from dgpo.errors import ConfigError, Explained
from dgpo.evaluation import settings
from dgpo.evaluation.benchmarks import Benchmark, limit_setting
from dgpo.evaluation.scores import VERDICTS, Samples
from dgpo.evaluation.settings import EvalConfig
from dgpo.files import Lock, atomic_write, file_hash, lock, remove, write_text
from dgpo.plain import path_text
from dgpo.run.identity import Change, Identity, MadeOf, digest
from dgpo.seeds import fold_in
from dgpo.settings import Positive
from dgpo.tasks.rewards import as_json
from dgpo.written import read_mapping

_OWN = ("completions", "per_problem.parquet", "results.json", "figures", "manifest.json", "problems.parquet")
_PLACE = ("index", "sample", "seed")
_KINDS = {"text": str, "verdict": str, "length": int, "finished": bool}
COLUMNS = ("index", "sample", "seed", "text", "tokens", "length", "finished", "verdict", "answer")


class EvaluationError(Explained, ValueError):
    """A folder that is not an evaluation, is incomplete, or belongs to another policy or other problems."""

    exit_code = 2


class Manifest(BaseModel):
    """The content of manifest.json. `problems` is the hash of problems.parquet, `benchmarks` their problem counts."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    identity: Identity
    benchmarks: Annotated[dict[str, Positive], Field(min_length=1)]
    problems: str
    n: Annotated[list[Positive], Field(min_length=1)]

    @model_validator(mode="after")
    def _knows_its_benchmarks(self) -> "Manifest":
        data = self.identity.made_of.get("data", {})
        if absent := [name for name in self.benchmarks if name not in data]:
            raise ValueError(f"identity.made_of.data has no hash of {absent[0]}")
        return self

    @field_validator("n")
    @classmethod
    def _grows(cls, n: list[int]) -> list[int]:
        if any(a >= b for a, b in itertools.pairwise(n)):
            raise ValueError(f"n={n} must grow")
        return n


class EvaluationFolder:
    """The folder of one evaluation: an existing one (`EvaluationFolder(path)`) or a new one (`create`).

    lock    held by the process that may write
    """

    def __init__(self, path: str | Path, lock: Lock | None = None):
        self.path, self.lock = Path(path_text(path)), lock
        if not (self.path / "manifest.json").exists():
            raise EvaluationError(f"{self.path} is not an evaluation: it has no manifest.json")
        try:
            self.manifest = Manifest.model_validate_json((self.path / "manifest.json").read_bytes())
            config = settings.load(**read_mapping(self.path / "config.yaml", "settings"))
        except ValidationError as error:
            (first, *_) = error.errors()
            place = f"{'.'.join(map(str, first['loc']))}: " if first["loc"] else ""
            raise EvaluationError(
                f"{self.path}/manifest.json has another format than this version writes: {place}{first['msg']}; "
                "overwrite=True starts afresh"
            ) from None
        except (OSError, ValueError) as error:
            raise EvaluationError(f"{self.path}: its config.yaml cannot be read: {error}") from None
        self.identity = self.manifest.identity
        self.config = config.model_copy(update={"n": self.manifest.n[-1]})
        problems = self.path / "problems.parquet"
        if not problems.exists() or file_hash(problems) != self.manifest.problems:
            raise EvaluationError(f"{self.path}/problems.parquet is not the file this evaluation was made with")

    @classmethod
    @contextmanager
    def create(
        cls, config: EvalConfig, made_of: MadeOf, benchmarks: Sequence[Benchmark]
    ) -> Iterator["EvaluationFolder"]:
        """Make the folder, or open an existing one to resume it, with a larger n if the config has one.

        A context manager: inside it, the folder is locked for other processes (ConfigError). Raises EvaluationError if
        the evaluation was made of something else or with other settings, ConfigError if the folder is not one.
        """
        path = Path(config.eval_dir)
        exists = (path / "manifest.json").exists()
        if not exists and (path / "config.yaml").exists() and not (path / "problems.parquet").exists():
            raise ConfigError(f"eval_dir={config.eval_dir!r} holds a training run: evaluate it into another folder")
        others = [p.name for p in path.iterdir() if not p.name.endswith(".partial")] if path.exists() else []
        if not exists and {*others} - {"problems.parquet", "config.yaml", ".lock"}:  # left over from a kill
            raise ConfigError(f"eval_dir={config.eval_dir!r} is not empty and not an evaluation; nothing was touched")
        with lock(path, f"eval_dir={config.eval_dir!r}") as held:
            if (path / "manifest.json").exists() and not config.overwrite:
                cls(path)._continue(config, made_of)
            else:
                cls._start(config, made_of, benchmarks)
            yield cls(path, held)

    @staticmethod
    def _start(config: EvalConfig, made_of: MadeOf, benchmarks: Sequence[Benchmark]) -> None:
        path = Path(config.eval_dir)
        for name in (*_OWN, "config.yaml"):  # in this order: without a manifest only the last two may be there
            remove(path / name)
        rows = [(b.name, i, p.id, p.prompt, p.answer) for b in benchmarks for i, p in enumerate(b.problems)]
        frame = pd.DataFrame(rows, columns=["benchmark", "index", "id", "prompt", "answer"])
        if config.reward:
            frame["row"] = [json.dumps(p.row, default=as_json) for b in benchmarks for p in b.problems]
        atomic_write(path / "problems.parquet", lambda scratch: frame.to_parquet(scratch, index=False))
        manifest = Manifest(
            identity=Identity.new(made_of),
            benchmarks={b.name: len(b.problems) for b in benchmarks},
            problems=file_hash(path / "problems.parquet"),
            n=[config.n],
        )
        _write_settings(path, config, manifest)

    def _continue(self, config: EvalConfig, made_of: MadeOf) -> None:
        where = f"eval_dir={config.eval_dir!r}"
        accepted = self.check(made_of, where, config.accept_changes)
        if changed := settings.differences(self.config, config):
            raise EvaluationError(
                f"{where} was made with other settings: {'; '.join(changed)}; overwrite=True starts afresh"
            )
        record = self.identity.going_on(made_of, accepted, where, n=config.n)
        sizes = [*self.manifest.n, config.n] if config.n > self.config.n else self.manifest.n
        if (record, sizes) != (self.identity, self.manifest.n):
            _write_settings(self.path, config, self.manifest.model_copy(update={"identity": record, "n": sizes}))

    def check(self, made_of: MadeOf, where: str, accept: Sequence[str] = ()) -> list[Change]:
        """`Identity.check`, whose ConfigError becomes an EvaluationError."""
        try:
            return self.identity.check(made_of, where, accept=accept, acceptable=settings.ACCEPTABLE)
        except ConfigError as error:
            raise EvaluationError(str(error)) from None

    @property
    def benchmarks(self) -> list[str]:
        return [*self.manifest.benchmarks]

    def problems(self, benchmark: str) -> pd.DataFrame:
        """index, id, prompt, answer of a benchmark's problems."""
        frame = pd.read_parquet(self.path / "problems.parquet")
        return frame[frame["benchmark"] == benchmark].reset_index(drop=True)

    def chunks(self, benchmark: str) -> list[tuple[Path, list[tuple[int, int]]]]:
        """The completion files of a benchmark, written or not, each with the places (problem, sample) of its rows."""
        problems, size = self.manifest.benchmarks[benchmark], self.config.chunk_rows
        folder, out = self.path / "completions" / benchmark, []
        for first, end in itertools.pairwise([0, *self.manifest.n]):
            places = list(itertools.product(range(problems), range(first, end)))
            name = f"n{first}_rows" if first else "rows"
            out += [(folder / f"{name}_{s:06d}.parquet", places[s : s + size]) for s in range(0, len(places), size)]
        return out

    def seed(self, benchmark: str, index: int, sample: int) -> int:
        """The seed of a completion; it does not depend on how the work is divided."""
        return fold_in(self.config.seed, "eval", benchmark, index, sample)

    def write(self, benchmark: str, path: Path, columns: dict[str, list]) -> None:
        """One file of completions, whole or not at all. Raises FolderLost, see `Lock.check`."""
        if self.lock:
            self.lock.check()
        table = pyarrow.table({name: columns[name] for name in COLUMNS})
        table = table.replace_schema_metadata(self._stamp(benchmark))
        atomic_write(path, lambda scratch: parquet.write_table(table, scratch, write_page_checksum=True))

    def read(
        self, benchmark: str, path: Path, places: Sequence[tuple[int, int]], columns: Sequence[str] = COLUMNS
    ) -> dict[str, list]:
        """Columns of the file of these places (problem, sample).

        Raises EvaluationError when it is empty, broken, short, of another policy or evaluation, or of other places.
        """
        remedy = "remove it and evaluate again to sample it anew"
        try:
            names = [*dict.fromkeys([*_PLACE, *columns])]
            table = parquet.read_table(path, columns=names, page_checksum_verification=True)
        except (pyarrow.ArrowInvalid, OSError) as error:
            what = "is empty" if path.stat().st_size == 0 else f"is not a whole Parquet file ({error})"
            raise EvaluationError(f"{path} {what}; {remedy}") from None
        stamp, given = self._stamp(benchmark), table.schema.metadata or {}
        kinds = ((b"model", "model"), (b"benchmark", f"revision of {benchmark}"), (b"evaluation", "evaluation"))
        for name, what in kinds:
            if given.get(name) != stamp[name]:
                raise EvaluationError(
                    f"{path} holds completions of another {what}: hash {given.get(name, b'none').decode()[:16]}, "
                    f"and this evaluation has {stamp[name].decode()[:16]}; {remedy}"
                )
        if len(table) != len(places):
            raise EvaluationError(f"{path} has {len(table)} completions and should have {len(places)}; {remedy}")
        if absent := [name for name in names if name not in table.column_names]:
            raise EvaluationError(f"{path} has no column {absent[0]}; {remedy}")
        held = table.to_pydict()
        for name in {*names} & _KINDS.keys():
            if bad := [value for value in held[name] if type(value) is not _KINDS[name]]:
                raise EvaluationError(f"{path}: {name} must be {_KINDS[name].__name__}, not {bad[0]!r}; {remedy}")
        if bad := {*held.get("verdict", ())} - {*VERDICTS}:
            raise EvaluationError(f"{path}: verdict must be one of {', '.join(VERDICTS)}, not {min(bad)!r}; {remedy}")
        for row, (index, sample) in enumerate(places):
            belongs = index, sample, self.seed(benchmark, index, sample)
            found = tuple(held[name][row] for name in _PLACE)
            if found != belongs:
                raise EvaluationError(
                    f"{path} holds the completions of another file: its row {row} has {', '.join(_PLACE)} = {found}, "
                    f"and {belongs} belongs there; {remedy}"
                )
        return {name: held[name] for name in columns}

    def samples(self, benchmark: str) -> Samples:
        """The judged completions of a benchmark. Raises EvaluationError when a problem has fewer than n of them."""
        ids = tuple(self.problems(benchmark)["id"])
        names = ("verdict", "answer", "length", "finished")
        array = {name: np.empty((len(ids), self.config.n), dtype=object) for name in names}
        for path, places in self.chunks(benchmark):
            if not path.exists():
                raise EvaluationError(self._missing(benchmark))
            where = tuple(np.array(places).T)
            for name, values in self.read(benchmark, path, places, names).items():
                array[name][where] = np.array(values, dtype=object)
        limit = limit_setting(benchmark)
        return Samples(
            benchmark=benchmark,
            sha256=self.identity.made_of["data"][benchmark],
            problems=ids,
            verdicts=array["verdict"],
            answers=array["answer"],
            lengths=array["length"].astype(float),
            finished=array["finished"].astype(bool),
            sampling={name: getattr(self.config, name) for name in (*settings.SAMPLING, limit)},
        )

    def completions(self, benchmark: str) -> Iterator[pd.DataFrame]:
        """Every completion, a frame for each file, with the problem's id and reference."""
        problems = self.problems(benchmark).set_index("index")[["id", "answer"]]
        problems.columns = ["problem", "reference"]
        for path, rows in self.chunks(benchmark):
            if path.exists():
                frame = pd.DataFrame(self.read(benchmark, path, rows, [c for c in COLUMNS if c != "tokens"]))
                yield frame.join(problems, on="index")

    def write_results(self, rows: list[dict], per_problem: pd.DataFrame) -> None:
        if self.lock:
            self.lock.check()
        atomic_write(self.path / "per_problem.parquet", lambda scratch: per_problem.to_parquet(scratch, index=False))
        rows = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # NaN is not JSON
        write_text(self.path / "results.json", json.dumps(rows, indent=2, allow_nan=False))

    def _stamp(self, benchmark: str) -> dict[bytes, bytes]:
        made_of = self.identity.made_of
        stamp = {
            "model": digest(made_of["model"]),
            "benchmark": made_of["data"][benchmark],
            "evaluation": self.identity.id,
        }
        return {name.encode(): value.encode() for name, value in stamp.items()}

    def _missing(self, benchmark: str) -> str:
        counts: dict[int, int] = dict.fromkeys(range(self.manifest.benchmarks[benchmark]), 0)
        for path, places in self.chunks(benchmark):
            for i, _ in places if path.exists() else ():
                counts[i] += 1
        short = [i for i, count in counts.items() if count < self.config.n]
        first = self.problems(benchmark)["id"][short[0]]
        return (
            f"{self.path}: {len(short)} of {len(counts)} problems of {benchmark} have fewer than n={self.config.n} "
            f"completions; the first, {first}, has {counts[short[0]]}. The same command resumes it"
        )


def _write_settings(path: Path, config: EvalConfig, manifest: Manifest) -> None:
    """Write the manifest last: it makes the folder an evaluation, and its n is the one that counts."""
    config = config.model_copy(update={"accept_changes": []})  # accepted once, and recorded
    atomic_write(path / "config.yaml", lambda scratch: dump(config, scratch))
    write_text(path / "manifest.json", manifest.model_dump_json(indent=2))
