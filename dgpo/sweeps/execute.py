"""Runs the runs of a sweep: a process each, a bounded number at a time, each one `dgpo.trainer.train` and nothing else.

A process harms its own run only. One that is killed resumes from its checkpoint at the next start; a training that
diverges is a result, kept as `seed_K.json` beside the run folder, like the reason of any other failure, which is tried
again. What a run prints is in `seed_K.log`.
"""

import contextlib
import fcntl
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import connection
from pathlib import Path
from typing import Any

from dgpo import config as configs
from dgpo import config_rules, errors
from dgpo.config import Config, ConfigError
from dgpo.distributed import process_group
from dgpo.files import Busy, atomic_write, check_place, lock, remove, write_text
from dgpo.plain import changes
from dgpo.progress import Progress, tell
from dgpo.run import identity
from dgpo.run.rows import read_rows
from dgpo.sweeps.definition import Run, Sweep, comparable, differences, dump, load

FINISHED, DIVERGED, FAILED, UNFINISHED = "finished", "diverged", "failed", "unfinished"
_BUSY_EXIT = 5


def execute(sweep: Sweep, jobs: int = 1, shard: tuple[int, int] = (1, 1), only: str | None = None) -> dict[str, str]:
    """Run what is missing of `sweep.runs(shard, only)`, `jobs` processes at a time. Returns their status by name.

    Raises ConfigError when the folder holds another sweep, or runs that began from another policy, and when another
    process is at the same shard.
    """
    if process_group.world_size() > 1:
        raise ConfigError(
            f"WORLD_SIZE={process_group.world_size()}: a sweep starts its own processes, one a run, without a launcher"
        )
    if jobs < 1:
        raise ConfigError(f"jobs={jobs} must be at least 1")
    runs = sweep.runs(shard, only)
    for run in runs:
        config_rules.check_machine(run.config)
        config_rules.check_devices(run.config, jobs)
    claim(sweep)
    part = f"{shard[0]}_of_{shard[1]}" + (f"_{only}" if only else "")
    with lock(sweep.path / ".running" / part, f"folder={sweep.folder!r}, shard {shard[0]}/{shard[1]}"):
        _run(runs, sweep, jobs)
    return {run.name: status(run)[0] for run in runs}


def _run(runs: list[Run], sweep: Sweep, jobs: int) -> None:
    waiting = [run for run in runs if status(run)[0] not in (FINISHED, DIVERGED)]
    if waiting:
        with _Pool(jobs) as pool, Progress(_made(runs)[0], sum(r.config.steps for r in runs)) as progress:
            _prepare(sweep, pool)
            while waiting or pool:
                while waiting and pool.free:
                    run = waiting.pop(0)
                    if status(run)[0] not in (FINISHED, DIVERGED):  # by another shard's process in the meantime
                        pool.start(run)
                ended = pool.wait()
                steps, failed = _made(runs)
                progress.update(steps, failed=failed)
                if progress.mode == "quiet":
                    for run in ended:
                        tell(" ".join([run.name, *status(run)]), sys.stdout)


def status(run: Run) -> tuple[str, str]:
    """(one of `finished diverged failed unfinished`, why) of a run, from what is on disk.

    A run whose small files cannot be read has failed, so that it is tried again.
    """
    summary, note = run.path / "summary.json", _note(run)
    try:
        if summary.exists() and read_fields(summary, "steps")["steps"] == run.config.steps:
            return FINISHED, ""
        if note.exists():
            record = read_fields(note, "status", "reason")
            return DIVERGED if record["status"] == DIVERGED else FAILED, str(record["reason"])
    except ConfigError as error:
        return FAILED, str(error)
    return UNFINISHED, ""


def read_fields(path: Path, *names: str) -> dict[str, Any]:
    """These fields of a JSON file; without names all of them. Raises ConfigError that names the file."""
    try:
        found = json.loads(path.read_text())
        return {name: found[name] for name in names or [*found.keys()]}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path} is damaged: {type(error).__name__}: {error}") from None


def claim(sweep: Sweep) -> None:
    """Write `sweep.yaml` into the folder, which is this sweep's from then on.

    Raises ConfigError for a folder with other things, with another sweep, or with a run of other settings.
    """
    path = sweep.path / "sweep.yaml"
    check_place(sweep.path, f"folder={sweep.folder!r}")
    if not path.exists() and sweep.path.exists() and any(not p.name.startswith(".") for p in sweep.path.iterdir()):
        raise ConfigError(f"folder={sweep.folder!r} is not empty and not a sweep; nothing there was touched")
    sweep.path.mkdir(parents=True, exist_ok=True)
    with locked(sweep.path):
        check(sweep)
        atomic_write(path, lambda scratch: dump(sweep, scratch))


def check(sweep: Sweep) -> None:
    """Raise ConfigError where the folder holds another sweep, or a run of other settings than the sweep's."""
    path = sweep.path / "sweep.yaml"
    if path.exists() and (changed := differences(load(path, folder=sweep.folder), sweep)):
        raise ConfigError(f"folder={sweep.folder!r} was made with another sweep: {'; '.join(changed)}")
    for run in sweep.runs():
        _check(run)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Shards of one sweep write its common files one after another."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def start_policies(sweep: Sweep) -> dict[str, str]:
    """The hashes of the policies that runs of this folder start from, by name, as recorded when the first one began."""
    path = sweep.path / "policies.json"
    return read_fields(path) if path.exists() else {}


def _check(run: Run) -> None:
    path = run.path / "config.yaml"
    if not path.exists():
        return
    try:
        recorded = configs.read_run(path)
    except ConfigError:
        return  # the run alone fails, and says so
    now = run.config.model_copy(update={"date": run.config.date or recorded.date})  # the run's own, unless one is given
    if changed := changes(comparable(recorded), comparable(now)):
        raise ConfigError(f"{str(run.path)!r} holds a run of other settings: {'; '.join(changed)}")


def _prepare(sweep: Sweep, pool: "_Pool") -> None:
    """Make the embedded policies before any run starts; all runs of a folder begin from the same ones, on one data."""
    configs = [sweep.config(cell, 0) for cell in sweep.cells]
    policies = pool.call(_policies, [*{repr((c.model, c.tiny)): c for c in configs}.values()])
    data = identity.of_data({path: path for c in configs for name in identity.FILES if (path := getattr(c, name))})
    with locked(sweep.path):
        _keep(sweep, "policies.json", "began from a policy", policies)
        if data:
            _keep(sweep, "data.json", "read problems from", data)


def _keep(sweep: Sweep, file: str, did: str, found: dict[str, str]) -> None:
    """Record the hashes of what runs are made of. Raises ConfigError where those recorded before were others."""
    path = sweep.path / file
    known = read_fields(path) if path.exists() else {}
    for name, digest in found.items():
        if known.get(name, digest) != digest:
            raise ConfigError(
                f"folder={sweep.folder!r}: its runs {did} {name} with hash {str(known[name])[:16]}, and "
                f"the one found now has {digest[:16]}: they would not be comparable"
            )
    write_text(path, json.dumps(known | found, indent=2))


def _policies(configs: list[Config]) -> dict[str, str]:
    """Hashes of the policies that runs start from, by `model` as given; the embedded ones, by their cache's names, are
    made first where they are missing."""
    from dgpo.model import tiny

    found = {}
    for config in configs:
        lm, _, source = tiny.load_policy(config)
        found[Path(source).name if config.model == "tiny" else str(source)] = identity.digest(
            identity.of_model(source, lm)
        )
    return found


def _made(runs: list[Run]) -> tuple[int, int]:
    """(steps made of all runs, a diverged one counting as done; runs that failed or diverged)."""
    steps = failed = 0
    for run in runs:
        path, (how, _) = run.path / "metrics.jsonl", status(run)
        failed += how in (DIVERGED, FAILED)
        if how in (FINISHED, DIVERGED):
            steps += run.config.steps
        elif path.exists():
            with contextlib.suppress(ConfigError, OSError):  # the run itself says what is wrong
                steps += max((row["step"] for row in read_rows(path)), default=0)
    return steps, failed


class _Pool:
    """At most `jobs` processes. They end when the `with` is left, and with this process, however it ends."""

    def __init__(self, jobs: int):
        import torch

        self.jobs, self.running = jobs, {}
        self.context = multiprocessing.get_context("forkserver")
        preload = ["dgpo.sweeps.server"]
        if not torch.cuda.is_available():  # a process forked from one that has loaded CUDA cannot use it
            preload.append("dgpo.sweeps.preload")  # else every run spends seconds on its imports
        self.context.set_forkserver_preload(preload)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process, _ in self.running.values():
            process.kill()
            process.join()

    def __len__(self):
        return len(self.running)

    @property
    def free(self) -> bool:
        return len(self) < self.jobs

    def call(self, function, argument):
        """The result of `function(argument)` in a process with the trainer loaded; Explained errors are raised here."""
        receiver, sender = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_answer, args=(sender, function, argument))
        process.start()
        self.running[process.sentinel] = process, None
        sender.close()
        try:
            answer = receiver.recv()
        except EOFError:
            answer = errors.Explained(f"the process of {function.__name__} ended without an answer")
        process.join()  # not after Ctrl-C, when it may still have a minute's work
        del self.running[process.sentinel]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def start(self, run: Run) -> None:
        run.path.parent.mkdir(parents=True, exist_ok=True)
        remove(_note(run))
        process = self.context.Process(target=_train, args=(run.config, _log(run)), name=run.name)
        process.start()
        self.running[process.sentinel] = process, run

    def wait(self, seconds: float = 1.0) -> list[Run]:
        """The runs that ended within `seconds`, with a note beside those that failed."""
        ended = []
        for sentinel in connection.wait([*self.running], seconds):
            process, run = self.running.pop(sentinel)
            process.join()
            if process.exitcode not in (0, _BUSY_EXIT):  # a run that another shard has is going well
                _write_note(run, process.exitcode)
            ended.append(run)
        return ended


def _write_note(run: Run, code: int) -> None:
    log = _log(run)
    lines = (log.read_text(errors="replace").strip().splitlines() if log.exists() else []) or [f"exit code {code}"]
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else lines[-1].removeprefix("error: ")
    record = {"status": DIVERGED if code == errors.DIVERGED else FAILED, "reason": how}
    write_text(_note(run), json.dumps(record, indent=2))


def _note(run: Run) -> Path:
    return run.path.with_name(f"{run.path.name}.json")


def _log(run: Run) -> Path:
    return run.path.with_name(f"{run.path.name}.log")


def _train(config: Config, log: Path) -> None:
    """What a run's process does."""
    _end_with_parent()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    from dgpo.launch.start import train

    try:
        train(config)
    except Busy:
        sys.exit(_BUSY_EXIT)
    except Exception as error:  # noqa: BLE001 (`report` raises what nothing explains again)
        sys.exit(errors.report(error, config.paths()))


def _answer(sender: connection.Connection, function, argument) -> None:
    _end_with_parent()
    try:
        sender.send(function(argument))
    except (errors.Explained, OSError, MemoryError) as error:
        sender.send(error)


def _end_with_parent() -> None:
    """Kill this process when the one that started it is gone: a forked process would outlive it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    sentinel = parent.sentinel

    def watch():
        connection.wait([sentinel])
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
