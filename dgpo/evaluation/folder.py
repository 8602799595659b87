"""An evaluation is a folder: `config.yaml manifest.json problems.parquet completions/<benchmark>/rows_000000.parquet
per_problem.parquet results.json`.

    manifest.json      hashes of the policy, of every benchmark and of problems.parquet; the n it was made with, and
                       those it was continued with, whose completions are in files `n16_rows_000000.parquet`
    problems.parquet   benchmark, index, id, prompt, answer
    completions        index, sample, seed, text, tokens, length, finished, verdict, answer; problem by problem. Every
                       file carries the hashes of the policy and the benchmark it was made with
    results.json       the summary of each benchmark, as per_problem.parquet is of each problem; written at the end

A file is whole or absent, so an interrupted evaluation goes on with the first file that is missing. One process at a
time has the folder.
"""

import itertools
import json
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet as parquet

from dgpo import identity
from dgpo.config import ConfigError, dump
from dgpo.errors import Explained
from dgpo.evaluation import settings
from dgpo.evaluation.benchmarks import Benchmark
from dgpo.evaluation.scores import Samples
from dgpo.evaluation.settings import EvalConfig
from dgpo.files import file_hash, lock, remove, write_whole
from dgpo.plain import read_mapping

_OWN = ("completions", "per_problem.parquet", "results.json", "figures", "manifest.json", "problems.parquet")
COLUMNS = ("index", "sample", "seed", "text", "tokens", "length", "finished", "verdict", "answer")


class EvaluationError(Explained, ValueError):
    """A folder that is no evaluation, is incomplete, or belongs to another policy or other problems."""

    exit_code = 2


class EvaluationFolder:
    """The folder of one evaluation, that exists (`EvaluationFolder(path)`) or is to be made (`create`)."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        if not (self.path / "manifest.json").exists():
            raise EvaluationError(f"{self.path} is not an evaluation: it has no manifest.json")
        try:
            self.manifest = json.loads((self.path / "manifest.json").read_text())
            config = settings.load(**read_mapping(self.path / "config.yaml", "settings"))
            if absent := {"n", "model", "benchmarks", "problems"} - self.manifest.keys():
                raise ValueError(f"the manifest has no {', '.join(sorted(absent))}")
        except (OSError, ValueError, TypeError) as error:
            raise EvaluationError(f"{self.path}: its manifest.json or config.yaml cannot be read: {error}") from None
        self.config = config.model_copy(update={"n": self.manifest["n"][-1]})
        problems = self.path / "problems.parquet"
        if not problems.exists() or file_hash(problems) != self.manifest["problems"]:
            raise EvaluationError(f"{self.path}/problems.parquet is not the file this evaluation was made with")

    @classmethod
    @contextmanager
    def create(cls, config: EvalConfig, model: str, benchmarks: Sequence[Benchmark]) -> Iterator["EvaluationFolder"]:
        """Make the folder, or open the one that is there to go on with it, with a larger n if the config asks for it.

        A context manager: inside it, no other process can do so (ConfigError). Raises EvaluationError when what is
        there is of another policy, of other problems or of other settings, and ConfigError for a folder that holds
        something else.
        """
        path = Path(config.eval_dir)
        exists = (path / "manifest.json").exists()
        if not exists and (path / "config.yaml").exists() and not (path / "problems.parquet").exists():
            raise ConfigError(f"eval_dir={config.eval_dir!r} holds a training run: evaluate it into another folder")
        others = [p.name for p in path.iterdir() if not p.name.endswith(".partial")] if path.exists() else []
        if not exists and {*others} - {"problems.parquet", "config.yaml", ".lock"}:  # what a kill can leave
            raise ConfigError(f"eval_dir={config.eval_dir!r} is not empty and not an evaluation; nothing was touched")
        with lock(path, f"eval_dir={config.eval_dir!r}"):
            if (path / "manifest.json").exists() and not config.overwrite:
                cls(path)._continue(config, model, benchmarks)
            else:
                cls._start(config, model, benchmarks)
            yield cls(path)

    @staticmethod
    def _start(config: EvalConfig, model: str, benchmarks: Sequence[Benchmark]) -> None:
        path = Path(config.eval_dir)
        for name in (*_OWN, "config.yaml"):  # in this order: without a manifest only the last two may be there
            remove(path / name)
        rows = [(b.name, i, p.id, p.prompt, p.answer) for b in benchmarks for i, p in enumerate(b.problems)]
        frame = pd.DataFrame(rows, columns=["benchmark", "index", "id", "prompt", "answer"])
        write_whole(path / "problems.parquet", lambda scratch: frame.to_parquet(scratch, index=False))
        manifest = {
            "model": model,
            "benchmarks": {b.name: {"sha256": b.sha256, "problems": len(b.problems)} for b in benchmarks},
            "problems": file_hash(path / "problems.parquet"),
            "n": [config.n],
        }
        _write_settings(path, config, manifest)

    def _continue(self, config: EvalConfig, model: str, benchmarks: Sequence[Benchmark]) -> None:
        where = f"eval_dir={config.eval_dir!r}"
        if model != self.manifest["model"]:
            raise EvaluationError(
                f"{where} holds completions of another model: {self.config.model!r} with hash "
                f"{self.manifest['model'][:16]}, and {config.model!r} has {model[:16]}; overwrite=True starts afresh"
            )
        for benchmark in benchmarks:
            before = self.manifest["benchmarks"].get(benchmark.name)
            if before and before["sha256"] != benchmark.sha256:
                raise EvaluationError(
                    f"{where} holds completions of another revision of {benchmark.name}: hash {before['sha256'][:16]}, "
                    f"and the one found now has {benchmark.sha256[:16]}; overwrite=True starts afresh"
                )
        if changed := settings.differences(self.config, config):
            raise EvaluationError(
                f"{where} was made with other settings: {'; '.join(changed)}; overwrite=True starts afresh"
            )
        if config.n > self.config.n:
            _write_settings(self.path, config, {**self.manifest, "n": [*self.manifest["n"], config.n]})

    @property
    def benchmarks(self) -> list[str]:
        return list(self.manifest["benchmarks"])

    def problems(self, benchmark: str) -> pd.DataFrame:
        """index, id, prompt, answer of a benchmark's problems."""
        frame = pd.read_parquet(self.path / "problems.parquet")
        return frame[frame["benchmark"] == benchmark].reset_index(drop=True)

    def chunks(self, benchmark: str) -> list[tuple[Path, list[tuple[int, int]]]]:
        """The completion files a benchmark is to have, each with the places (problem, sample) of its rows."""
        problems, size = self.manifest["benchmarks"][benchmark]["problems"], self.config.chunk_rows
        folder, out = self.path / "completions" / benchmark, []
        for first, end in itertools.pairwise([0, *self.manifest["n"]]):
            places = list(itertools.product(range(problems), range(first, end)))
            name = f"n{first}_rows" if first else "rows"
            out += [(folder / f"{name}_{s:06d}.parquet", places[s : s + size]) for s in range(0, len(places), size)]
        return out

    def write(self, benchmark: str, path: Path, columns: dict[str, list]) -> None:
        """One file of completions, whole or not at all."""
        table = pyarrow.table({name: columns[name] for name in COLUMNS})
        table = table.replace_schema_metadata(self._stamp(benchmark))
        write_whole(path, lambda scratch: parquet.write_table(table, scratch, write_page_checksum=True))

    def read(self, benchmark: str, path: Path, rows: Sized, columns: Sequence[str] = COLUMNS) -> dict[str, list]:
        """Columns of one file. Raises EvaluationError when it is empty, broken, short, or of another policy."""
        remedy = "remove it and evaluate again to sample it anew"
        try:
            table = parquet.read_table(path, columns=list(columns), page_checksum_verification=True)
        except (pyarrow.ArrowInvalid, OSError) as error:
            what = "is empty" if path.stat().st_size == 0 else f"is not a whole Parquet file ({error})"
            raise EvaluationError(f"{path} {what}; {remedy}") from None
        stamp, found = self._stamp(benchmark), table.schema.metadata or {}
        for name, what in ((b"model", "model"), (b"benchmark", f"revision of {benchmark}")):
            if found.get(name) != stamp[name]:
                raise EvaluationError(
                    f"{path} holds completions of another {what}: hash {found.get(name, b'none').decode()[:16]}, "
                    f"and this evaluation has {stamp[name].decode()[:16]}; {remedy}"
                )
        if len(table) != len(rows):
            raise EvaluationError(f"{path} has {len(table)} completions and should have {len(rows)}; {remedy}")
        return table.to_pydict()

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
        limit = "chain_max_new_tokens" if benchmark == "chain" else "max_new_tokens"
        return Samples(
            benchmark=benchmark,
            sha256=self.manifest["benchmarks"][benchmark]["sha256"],
            problems=ids,
            verdicts=array["verdict"],
            answers=array["answer"],
            lengths=array["length"].astype(float),
            finished=array["finished"].astype(bool),
            sampling={name: getattr(self.config, name) for name in (*settings.SAMPLING, limit)},
        )

    def completions(self, benchmark: str) -> Iterator[pd.DataFrame]:
        """Every completion, a frame a file, with the problem's id and reference."""
        problems = self.problems(benchmark).set_index("index")[["id", "answer"]]
        problems.columns = ["problem", "reference"]
        for path, rows in self.chunks(benchmark):
            if path.exists():
                frame = pd.DataFrame(self.read(benchmark, path, rows, [c for c in COLUMNS if c != "tokens"]))
                yield frame.join(problems, on="index")

    def write_results(self, rows: list[dict], per_problem: pd.DataFrame) -> None:
        write_whole(self.path / "per_problem.parquet", lambda scratch: per_problem.to_parquet(scratch, index=False))
        rows = [{k: None if v != v else v for k, v in row.items()} for row in rows]  # NaN is not JSON
        text = json.dumps(rows, indent=2, allow_nan=False) + "\n"
        write_whole(self.path / "results.json", lambda scratch: scratch.write_text(text))

    def _stamp(self, benchmark: str) -> dict[bytes, bytes]:
        sha256 = self.manifest["benchmarks"][benchmark]["sha256"]
        return {b"model": self.manifest["model"].encode(), b"benchmark": sha256.encode()}

    def _missing(self, benchmark: str) -> str:
        counts: dict[int, int] = dict.fromkeys(range(self.manifest["benchmarks"][benchmark]["problems"]), 0)
        for path, places in self.chunks(benchmark):
            for i, _ in places if path.exists() else ():
                counts[i] += 1
        short = [i for i, count in counts.items() if count < self.config.n]
        first = self.problems(benchmark)["id"][short[0]]
        return (
            f"{self.path}: {len(short)} of {len(counts)} problems of {benchmark} have fewer than n={self.config.n} "
            f"completions; the first, {first}, has {counts[short[0]]}. The same command goes on where it stopped"
        )


def model_hash(source: str | Path, lm=None) -> str:
    """A hash of a checkpoint folder's weights, configuration and tokenizer; of a hub model its revision."""
    return identity.digest(identity.of_model(source, lm))


def _write_settings(path: Path, config: EvalConfig, manifest: dict) -> None:
    """The manifest last: it is what makes the folder an evaluation, and its n what holds."""
    write_whole(path / "config.yaml", lambda scratch: dump(config, scratch))
    write_whole(path / "manifest.json", lambda scratch: scratch.write_text(json.dumps(manifest, indent=2) + "\n"))
