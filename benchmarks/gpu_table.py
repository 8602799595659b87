"""The table of `benchmarks.gpu`: rows printed and appended as they are known, times, a process for each part."""

import faulthandler
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch

OUT = "DGPO_GPU_TABLE"  # environment variable: the file of the table, also for the processes started here
WHEELS = Path("build/gpu-wheels")  # what `make gpu-wheels` makes
_PATIENCE = 240  # seconds for a part


def row(part: str, quantity: str, measured: float | str, predicted: float | None = None) -> None:
    """A line of the table, printed when it is known."""
    said = measured if isinstance(measured, str) else f"{measured:.4g}"
    write(f"| {part} | {quantity} | {said} | {'' if predicted is None else f'{predicted:.4g}'} |")


def write(line: str) -> None:
    """Print a line, and append it to the file of the table."""
    print(line, flush=True)
    if out := os.environ.get(OUT):
        with open(out, "a") as file:
            file.write(line + "\n")


def seconds(run: Callable[[], object], repeats: int = 3, warm: int = 1) -> float:
    """Median wall seconds of `run` after `warm` runs that do not count."""
    times = []
    for _ in range(warm + repeats):
        synchronize()
        start = time.perf_counter()
        run()
        synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm:])


def apart(function: Callable, *args) -> None:
    """Call it in a process of its own: DeepSpeed keeps an engine's memory for as long as its process lives.

    It prints where it is at 45 and 90 % of its time, and is killed at the end of it.
    """
    process = multiprocessing.get_context("spawn").Process(target=_watched, args=(_PATIENCE, function, *args))
    process.start()
    process.join(_PATIENCE)
    if process.is_alive():
        process.kill()
        process.join()  # or the next part would start beside its memory
        row(function.__name__, "failed", f"not done after {_PATIENCE} seconds")
    elif process.exitcode != 0:
        row(function.__name__, "failed", f"exit code {process.exitcode}")


def _watched(patience: float, function: Callable, *args) -> None:
    faulthandler.dump_traceback_later(0.45 * patience, repeat=True)
    try:
        function(*args)
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def emptied():
    """Give back what the part before held, and count peaks afresh."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
