"""The whole step against the bare calls it is made of: python -m benchmarks.floor [small|20M] [rounds]

The trainer's step and the floor (`generate`, forward, backward and AdamW alone, see benchmarks.workload) run in turn,
in a process each, on one thread. Prints medians of CPU seconds and of the ratios of neighbours.
"""

import statistics
import sys

from benchmarks.workload import workers


def main(size: str = "small", rounds: int = 9) -> float:
    """Print the table; returns the ratio of the whole steps."""
    worker = [sys.executable, "-m", "benchmarks.workload"]
    with workers(size, {"dgpo": [*worker, "dgpo"], "floor": [*worker, "floor"]}) as ask:
        pairs = [(ask["dgpo"]()["seconds"], ask["floor"]()["seconds"]) for _ in range(rounds)]
    print(f"| {size}: CPU s | trainer | bare calls | ratio, median of {rounds} |\n|---|---|---|---|")
    for part in pairs[0][1]:
        ours, bare = (statistics.median(pair[i][part] for pair in pairs) for i in (0, 1))
        ratio = statistics.median(a[part] / b[part] for a, b in pairs)
        print(f"| {part} | {ours:.3f} | {bare:.3f} | {ratio:.2f} |")
    return ratio


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
