"""The numbers of a finished run in one dictionary: scores before and after, cost, machine and versions."""

import platform
import resource
import sys

import torch

from dgpo import __version__
from dgpo.config import Config
from dgpo.distributed import process_group
from dgpo.methods import Method
from dgpo.run import checkpoint, identity
from dgpo.run.folder import RunFolder
from dgpo.run.rows import read_rows


def summarise(run: RunFolder, config: Config, method: Method, notes: dict[str, int]) -> dict:
    """The content of `summary.json`. CPU seconds and peak memory are of this process; seconds are of all steps."""
    rows = read_rows(run.path / "metrics.jsonl")
    evaluated = [row for row in rows if f"eval/avg@{config.eval_samples}" in row]
    pick = lambda row: {k: v for k, v in row.items() if k == "step" or k.startswith("eval/")}  # noqa: E731
    usage = resource.getrusage(resource.RUSAGE_SELF)
    phases = sorted({k for row in rows for k in row if k.startswith("seconds/")})
    return {
        "method": str(method),
        "task": config.task,
        "seed": config.seed,
        "steps": checkpoint.load_state(run.checkpoints()[-1])["step"],
        "before": pick(evaluated[0]) if evaluated else {},  # rows may be lost, and the loss accepted
        "after": pick(evaluated[-1]) if evaluated else {},
        "seconds": {p.removeprefix("seconds/"): round(sum(row.get(p, 0.0) for row in rows), 2) for p in phases},
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gb": round(usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9, 2),
        "ranks": process_group.world_size(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "python": platform.python_version(),
        "versions": {"dgpo": __version__, **identity.versions()},
        "left_out": notes,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            names = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    except FileNotFoundError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
