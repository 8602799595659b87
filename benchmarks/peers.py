"""A step here and on TRL's GRPOTrainer, side by side: python -m benchmarks.peers PYTHON_WITH_TRL [rounds [size]]

The same work (benchmarks.workload) at both of its sizes, in turn, each trainer in a process and an environment of its
own, on one thread. Prints medians of CPU seconds, of the ratios of neighbours, and peak memory of the processes.
`make bench-peers` makes the environment.
"""

import statistics
import sys
from pathlib import Path

from benchmarks.workload import SIZES, workers


def main(python: str, rounds: int = 7, sizes=tuple(SIZES)) -> None:
    """Print the table."""
    commands = {
        "dgpo": [sys.executable, "-m", "benchmarks.workload", "dgpo"],
        "trl": [python, str(Path(__file__).parent / "trl_worker.py")],
    }
    print(f"| | dgpo | TRL | ratio, median of {rounds} |\n|---|---|---|---|")
    for size in sizes:
        with workers(size, commands) as ask:
            pairs = [(ask["dgpo"](), ask["trl"]()) for _ in range(rounds)]
        seconds = [[answer["seconds"]["step"] for answer in pair] for pair in pairs]
        ours, theirs = (statistics.median(pair[i] for pair in seconds) for i in (0, 1))
        ratio = statistics.median(a / b for a, b in seconds)
        print(f"| {size}: CPU s a step | {ours:.2f} | {theirs:.2f} | {ratio:.2f} |")
        peaks = [max(pair[i]["peak_mb"] for pair in pairs) for i in (0, 1)]
        print(f"| {size}: peak memory, MB | {peaks[0]:.0f} | {peaks[1]:.0f} | {peaks[0] / peaks[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:3]), *([sys.argv[3:]] if sys.argv[3:] else []))
