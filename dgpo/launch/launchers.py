"""The three launchers: what each can do, the command that starts the ranks, and how it is told to stop.

Each runs `python -m dgpo train SETTINGS` on every rank; SETTINGS is a file that all of them can read.
"""

import base64
import contextlib
import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import torch

from dgpo import lifetimes
from dgpo.config import Config
from dgpo.errors import ConfigError
from dgpo.launch.settings import Launch

_PATIENCE = 10  # seconds in which a launcher ends its ranks, before it is killed
_SCRIPT = Path(__file__).with_name("train.sbatch")
_CPUS = 8  # of SLURM for each GPU


class Torchrun:
    """One machine. `takes` are the settings of Launch that are this launcher's."""

    takes = ("port",)

    def __init__(self, config: Config, how: Launch):
        self.config, self.how = config, how

    @property
    def ranks(self) -> int:
        return self.config.ranks or 1

    @property
    def on_gpus(self) -> bool:
        return self.config.device != "cpu" and torch.cuda.is_available()

    def check(self) -> None:
        """Raise ConfigError for what this launcher cannot start."""
        if self.on_gpus and (devices := torch.cuda.device_count()) < self.ranks:
            raise ConfigError(
                f"ranks={self.ranks}, but this machine has {devices} CUDA devices: a rank needs one of its own; "
                "device='cpu' does without, launch='slurm' finds machines that have more"
            )
        _check_port(self.how.port)

    def command(self, settings: Path, log: Path) -> list[str]:
        """The words that start the ranks; what they print goes to `log`."""
        port = ["--master-addr=127.0.0.1", f"--master-port={self.how.port}"] if self.how.port else ["--standalone"]
        start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={self.ranks}", *port]
        return [*start, "-m", "dgpo", "train", str(settings)]

    def environment(self) -> dict[str, str]:
        """This process's; torchrun itself would give each rank one thread."""
        threads = max(1, (os.cpu_count() or 1) // self.ranks)
        return {"OMP_NUM_THREADS": str(threads), **os.environ}

    def stop(self, process: subprocess.Popen) -> None:
        """Tell the launcher to end its ranks, and kill it when it has not done so in time."""
        try:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_PATIENCE)
        finally:
            lifetimes.end(process)


class DeepSpeed(Torchrun):
    """The machines of a hostfile, over ssh."""

    takes = ("hostfile", "port")

    @property
    def ranks(self) -> int:
        return sum(self._hosts().values())

    @property
    def on_gpus(self) -> bool:
        return self.config.device != "cpu" and (not self._here() or torch.cuda.is_available())

    def check(self) -> None:
        if self.config.ranks not in (0, self.ranks):
            raise ConfigError(f"ranks={self.config.ranks}, but hostfile={self.how.hostfile!r} has {self.ranks} slots")
        if self._here():
            super().check()

    def command(self, settings: Path, log: Path) -> list[str]:
        start = [f"--master_port={self.how.port or _free_port()}", "--module", "dgpo", "train", str(settings)]
        if not self._here():
            return [sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={self.how.hostfile}", *start]
        # what the runner would start without ssh, and leave behind when it is told to stop
        world = json.dumps({host: [*range(slots)] for host, slots in self._hosts().items()}).encode()
        own = [f"--world_info={base64.urlsafe_b64encode(world).decode()}", "--node_rank=0", "--master_addr=127.0.0.1"]
        return [sys.executable, "-m", "deepspeed.launcher.launch", *own, *start]

    def environment(self) -> dict[str, str]:
        return {**os.environ}

    def _here(self) -> bool:
        """Whether the only machine is this one, which needs no ssh."""
        return self._hosts().keys() <= {"localhost", "127.0.0.1", socket.gethostname()}

    def _hosts(self) -> dict[str, int]:
        """The slots of each machine."""
        if self.how.hostfile is None:
            raise ConfigError("launch='deepspeed' needs hostfile=FILE; on this machine alone torchrun starts the ranks")
        try:
            lines = Path(self.how.hostfile).read_text("utf-8", "replace").splitlines()
        except OSError as error:
            raise ConfigError(f"hostfile={self.how.hostfile!r} cannot be read: {error.strerror}") from None
        lines = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
        found = [re.match(r"(\S+)\s+slots=([1-9]\d*)\b", line) for line in lines]
        hosts = {match[1]: int(match[2]) for match in found if match}
        if not hosts or len(hosts) < len(lines):
            raise ConfigError(f"hostfile={self.how.hostfile!r} must have a line `HOST slots=RANKS` for each machine")
        return hosts


class Slurm(Torchrun):
    """A job of SLURM. A second one for the same run waits for the first, and then finds it done or goes on with it."""

    takes = ("nodes", "partition", "time", "sbatch")

    @property
    def on_gpus(self) -> bool:
        return self.config.device != "cpu"

    def check(self) -> None:
        if shutil.which("sbatch") is None:
            raise ConfigError("launch='slurm': there is no sbatch on PATH; start it on a login node of the cluster")
        if not self.config.ranks or self.config.ranks % self.how.nodes:
            raise ConfigError(
                f"launch='slurm': ranks={self.config.ranks} must be a multiple of nodes={self.how.nodes}, and not 0"
            )
        if self.config.overwrite:
            raise ConfigError(
                "launch='slurm' with overwrite=True: a job that SLURM starts again would begin anew; remove "
                f"run_dir={self.config.run_dir!r}, or take another one"
            )

    def command(self, settings: Path, log: Path) -> list[str]:
        how, each = self.how, self.ranks // self.how.nodes
        options = [f"--nodes={how.nodes}", f"--cpus-per-task={each * (_CPUS if self.on_gpus else 1)}"]
        options += [f"--gpus-per-node={each}"] if self.on_gpus else []
        options += [f"--partition={how.partition}"] if how.partition else []
        options += [f"--time={how.time}"] if how.time else []
        name = ["--job-name", self._name, "--dependency=singleton", f"--output={log}"]
        return ["sbatch", "--wait", *name, *options, *how.sbatch, str(_SCRIPT), str(settings)]

    def environment(self) -> dict[str, str]:
        """This process's, with its Python in front: a job inherits it."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return {**os.environ, "PATH": path}

    def stop(self, process: subprocess.Popen) -> None:
        """Cancel the job: a killed sbatch would only no longer wait for it."""
        words = ["scancel", "--quiet", f"--user={getpass.getuser()}", f"--name={self._name}"]
        with contextlib.suppress(OSError):
            subprocess.run(words, stdin=subprocess.DEVNULL, check=False)
        super().stop(process)

    @property
    def _name(self) -> str:
        """The job's, one for each run folder."""
        path = Path(self.config.run_dir).absolute()
        return f"dgpo-{re.sub(r'[^A-Za-z0-9.-]', '_', path.name)}-{hashlib.sha256(bytes(path)).hexdigest()[:8]}"


LAUNCHERS: dict[str, type[Torchrun]] = {"torchrun": Torchrun, "deepspeed": DeepSpeed, "slurm": Slurm}


def make(config: Config, how: Launch) -> Torchrun:
    """The launcher that is asked for. Raises ConfigError for a setting that is another one's."""
    name = how.launch or "torchrun"
    for field in ("nodes", "partition", "time", "sbatch", "hostfile", "port"):
        if field not in LAUNCHERS[name].takes and (value := getattr(how, field)) != Launch.model_fields[field].default:
            others = " or ".join(f"launch={other!r}" for other, its in LAUNCHERS.items() if field in its.takes)
            raise ConfigError(f"{field}={value!r} is not for launch={name!r}: it needs {others}")
    return LAUNCHERS[name](config, how)


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise ConfigError(f"port={port} cannot be used: {error.strerror}; port=0 takes a free one") from None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
