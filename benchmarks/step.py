"""Where a training step's CPU time goes: python -m benchmarks.step [steps]

Runs the default recipe on one thread and times, inside the very run, the calls that any trainer has to make (generate,
forward, backward) and the optimizer step. What is left is the trainer's own. Prints medians over steps.
"""

import statistics
import sys
import tempfile
import time
from collections import defaultdict

from dgpo import config as configs
from dgpo import trainer


def main(steps: int = 30) -> None:
    """Print a table of CPU milliseconds a step, by part, and the share of each."""
    spent: dict[str, float] = defaultdict(float)
    rows = []

    def timed(owner, name, label):
        original = getattr(owner, name)

        def wrapper(*args, **kwargs):
            start = time.process_time()
            try:
                return original(*args, **kwargs)
            finally:
                spent[label] += time.process_time() - start

        setattr(owner, name, wrapper)

    with tempfile.TemporaryDirectory() as folder:
        made = trainer.Trainer(
            configs.load("tiny", run_dir=f"{folder}/run", eval_every=0, checkpoint_every=0, steps=steps)
        )
        made.restore()
        timed(made.policy.lm, "generate", "sampling")
        timed(made.policy, "forward", "forward")
        timed(made.reference, "forward", "forward")
        timed(made.engine.deepspeed, "backward", "backward")
        timed(made.engine.deepspeed, "step", "optimizer step")
        for step in range(1, steps + 1):
            spent.clear()
            start = time.process_time()
            batch, rewards, rolled = made.collector.collect()
            batch, scored = made.score(batch, rewards)
            updated = made.update(step, batch)
            if step < steps:
                made.report(step, rolled | scored | updated)
            spent["step"] = time.process_time() - start
            rows.append(dict(spent))

    parts = ("sampling", "forward", "backward", "optimizer step")
    medians = {part: statistics.median(row[part] for row in rows) for part in ("step", *parts)}
    outside = statistics.median(1 - sum(row[part] for part in parts[:3]) / row["step"] for row in rows)
    own = statistics.median(1 - sum(row[part] for part in parts) / row["step"] for row in rows)
    print(f"| part | CPU ms a step, median of {steps} | share |\n|---|---|---|")
    for part, seconds in medians.items():
        print(f"| {part} | {1000 * seconds:.0f} | {seconds / medians['step']:.1%} |")
    print(f"| outside sampling, forward and backward | | {outside:.1%} |")
    print(f"| ... and outside the optimizer step | | {own:.1%} |")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
