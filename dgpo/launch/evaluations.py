"""An evaluation on ranks of this machine, which are started here and followed to their end."""

import contextlib
from pathlib import Path

import torch

from dgpo import config as configs
from dgpo.distributed import launcher as environment
from dgpo.evaluation import run
from dgpo.evaluation.folder import EvaluationError, EvaluationFolder
from dgpo.evaluation.settings import EvalConfig
from dgpo.files import atomic_write
from dgpo.launch.follow import follow
from dgpo.launch.launchers import Torchrun
from dgpo.launch.settings import Launch
from dgpo.progress import Progress, in_notebook, tell


def evaluate(config: EvalConfig, ranks: int = 0) -> Path:
    """Run an evaluation on `ranks` ranks and return its folder; the same call resumes one that was interrupted.

    0 ranks is this process, and on a GPU a child process of a notebook's, in which a second engine would find the
    first one's memory in use. Raises ConfigError before anything starts, and LaunchError with the error of the rank
    that failed.
    """
    if ranks <= 1 and not _apart(config):
        return run.evaluate(config)
    launcher = _Evaluators(config, max(1, ranks))
    launcher.check()
    run.check(config)
    folder = Path(config.eval_dir)
    beside = folder.absolute().with_name(f"{folder.name}.launch")
    settings, log = beside / "settings.yaml", beside / "log.txt"
    atomic_write(settings, lambda scratch: configs.dump(config, scratch))
    tell(f"{folder}: {launcher.ranks} ranks by torchrun; what they print is in {log}")
    follow(launcher, settings, log, _Completions(config))
    return folder


def _apart(config: EvalConfig) -> bool:
    return in_notebook() and not environment.started() and config.device != "cpu" and torch.cuda.is_available()


class _Evaluators(Torchrun):
    """Ranks of an evaluation, whose settings do not have their number."""

    program = "eval"

    def __init__(self, config: EvalConfig, ranks: int):
        super().__init__(config, Launch())
        self._ranks = ranks

    @property
    def ranks(self) -> int:
        return self._ranks


class _Completions:
    """Shows the completions that other processes have stored, a file at a time."""

    def __init__(self, config: EvalConfig):
        self.path, self.progress = Path(config.eval_dir), Progress(0, 1, "completion")

    def show(self) -> None:
        with contextlib.suppress(EvaluationError, OSError):  # not begun; what is damaged, the ranks report
            folder = EvaluationFolder(self.path)
            chunks = [chunk for name in folder.benchmarks for chunk in folder.chunks(name)]
            self.progress.total = sum(len(places) for _, places in chunks)
            self.progress.update(sum(len(places) for path, places in chunks if path.exists()))
