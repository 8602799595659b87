"""The three launchers: what each accepts, the command that starts the ranks, and how to stop them.

Every rank runs `python -m dgpo train SETTINGS`; SETTINGS is a file that all ranks can read.
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
from typing import Any

import torch

from dgpo import lifetimes
from dgpo.config import Config
from dgpo.errors import ConfigError
from dgpo.launch.settings import Launch

_PATIENCE = 10  # seconds for a launcher to end its ranks before it is killed
_SCRIPT = Path(__file__).with_name("train.sbatch")
_CPUS = 8  # of SLURM for each GPU


class Torchrun:
    """Ranks on this machine.

    takes    the settings of Launch that this launcher accepts and others may not
    here     whether all ranks are on this machine
    program  the command of dgpo that they run
    """

    takes = ("port",)
    here = True
    program = "train"

    def __init__(self, config: Any, how: Launch):
        self.config, self.how = config, how

    @property
    def ranks(self) -> int:
        return self.config.ranks or 1

    @property
    def samplers(self) -> int:
        """Samplers on devices of their own."""
        return getattr(self.config, "sampler_ranks", 0)

    @property
    def on_gpus(self) -> bool:
        return self.config.device != "cpu" and (torch.cuda.is_available() or not self.here)

    def check(self) -> None:
        """Raise ConfigError for what this launcher cannot start."""
        if self.on_gpus and (devices := torch.cuda.device_count()) < self.ranks + self.samplers:
            asked, each = f"ranks={self.ranks}", "rank"
            if self.samplers:
                asked, each = f"{asked} with sampler_ranks={self.samplers}", "rank and each sampler"
            raise ConfigError(
                f"{asked}, but this machine has {devices} CUDA devices: each {each} needs its own; use fewer, or "
                "launch='slurm' or 'deepspeed' for several machines"
            )
        _check_port(self.how.port)

    def command(self, settings: Path, log: Path) -> list[str]:
        """The command that starts the ranks; a SLURM job writes its output to `log`."""
        port = ["--master-addr=127.0.0.1", f"--master-port={self.how.port}"] if self.how.port else ["--standalone"]
        start = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={self.ranks}", *port]
        return [*start, "-m", "dgpo", self.program, str(settings)]

    def environment(self) -> dict[str, str]:
        """This process's environment; without OMP_NUM_THREADS torchrun would give each rank one thread."""
        threads = max(1, (os.cpu_count() or 1) // self.ranks)
        return {"OMP_NUM_THREADS": str(threads), **os.environ}

    def stop(self, process: subprocess.Popen) -> None:
        """Ask the launcher to end its ranks, and kill it if that takes too long."""
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
    def here(self) -> bool:
        return self._hosts().keys() <= {"localhost", "127.0.0.1", socket.gethostname()}

    @property
    def ranks(self) -> int:
        return sum(self._hosts().values())

    def check(self) -> None:
        if self.config.ranks not in (0, self.ranks):
            raise ConfigError(f"ranks={self.config.ranks}, but hostfile={self.how.hostfile!r} has {self.ranks} slots")
        if self.on_gpus and self.samplers:
            raise ConfigError(
                f"launch='deepspeed' with sampler_ranks={self.samplers}: DeepSpeed hides the GPUs that are no slots of "
                "the hostfile from its ranks; use launch='torchrun', or 'slurm' for several machines"
            )
        if self.here:
            super().check()

    def command(self, settings: Path, log: Path) -> list[str]:
        start = [f"--master_port={self.how.port or _free_port()}", "--module", "dgpo", "train", str(settings)]
        if not self.here:
            return [sys.executable, "-m", "deepspeed.launcher.runner", f"--hostfile={self.how.hostfile}", *start]
        # what the runner starts on one host; the runner itself would leave it running when stopped
        world = json.dumps({host: [*range(slots)] for host, slots in self._hosts().items()}).encode()
        own = [f"--world_info={base64.urlsafe_b64encode(world).decode()}", "--node_rank=0", "--master_addr=127.0.0.1"]
        return [sys.executable, "-m", "deepspeed.launcher.launch", *own, *start]

    def environment(self) -> dict[str, str]:
        return {**os.environ}

    def _hosts(self) -> dict[str, int]:
        """The number of slots of each machine."""
        if self.how.hostfile is None:
            raise ConfigError("launch='deepspeed' needs hostfile=FILE; on this machine alone, use launch='torchrun'")
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
    """A SLURM job. A second job for the same run waits for the first, then resumes the run."""

    takes = ("nodes", "partition", "time", "sbatch")
    here = False

    def check(self) -> None:
        if shutil.which("sbatch") is None:
            raise ConfigError("launch='slurm': sbatch is not on PATH; run this on a login node of the cluster")
        if not self.config.ranks or self.config.ranks % self.how.nodes:
            raise ConfigError(
                f"launch='slurm': ranks={self.config.ranks} must be a multiple of nodes={self.how.nodes}, and not 0"
            )
        if self.config.overwrite:
            raise ConfigError(
                "launch='slurm' with overwrite=True: a requeued job would start afresh; remove "
                f"run_dir={self.config.run_dir!r}, or choose another"
            )

    def command(self, settings: Path, log: Path) -> list[str]:
        how, each = self.how, self._ranks_on_node - (-self.samplers // self.how.nodes)
        options = [f"--nodes={how.nodes}", f"--cpus-per-task={each * (_CPUS if self.on_gpus else 1)}"]
        options += [f"--gpus-per-node={each}"] if self.on_gpus else []
        options += [f"--partition={how.partition}"] if how.partition else []
        options += [f"--time={how.time}"] if how.time else []
        name = ["--job-name", self._name, "--dependency=singleton", f"--output={log}"]
        return ["sbatch", "--wait", *name, *options, *how.sbatch, str(_SCRIPT), str(settings)]

    def environment(self) -> dict[str, str]:
        """This process's environment, which the job inherits, with its Python first on PATH and the ranks of a node."""
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
        return {**os.environ, "PATH": path, "DGPO_RANKS_ON_NODE": str(self._ranks_on_node)}

    def stop(self, process: subprocess.Popen) -> None:
        """Cancel the job: ending sbatch would only end the wait for it."""
        words = ["scancel", "--quiet", f"--user={getpass.getuser()}", f"--name={self._name}"]
        with contextlib.suppress(OSError):
            subprocess.run(words, stdin=subprocess.DEVNULL, check=False)
        super().stop(process)

    @property
    def _ranks_on_node(self) -> int:
        return self.ranks // self.how.nodes

    @property
    def _name(self) -> str:
        """The job's name, the same for every job of one run folder."""
        path = Path(self.config.run_dir).absolute()
        return f"dgpo-{re.sub(r'[^A-Za-z0-9.-]', '_', path.name)}-{hashlib.sha256(bytes(path)).hexdigest()[:8]}"


LAUNCHERS: dict[str, type[Torchrun]] = {"torchrun": Torchrun, "deepspeed": DeepSpeed, "slurm": Slurm}


def make(config: Config, how: Launch) -> Torchrun:
    """The launcher that `how` names. Raises ConfigError for a setting that only another launcher accepts."""
    name = how.launch or "torchrun"
    for field in ("nodes", "partition", "time", "sbatch", "hostfile", "port"):
        if field not in LAUNCHERS[name].takes and (value := getattr(how, field)) != Launch.model_fields[field].default:
            others = " or ".join(f"launch={other!r}" for other, its in LAUNCHERS.items() if field in its.takes)
            raise ConfigError(f"{field}={value!r} has no meaning for launch={name!r}: it needs {others}")
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
