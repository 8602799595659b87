"""One GPU, one table: python -m benchmarks.gpu [PART ...] (--tiny runs every part on a CPU)

    runs        `train tiny` for two steps: each ZeRO stage, offloading, the sampler in its own process
    logprobs    token log-probabilities with their gradients: the full matrix, chunks of several sizes, Liger
    watching    what the check of every gradient costs, beside the way that made float32 copies
    updates     updates with 8k and 18k tokens a micro-batch, with Liger's kernels; old log-probabilities; a checkpoint
    numbers     log π of one policy by two passes, and with the output layer in bfloat16 and in float32
    decode      the embedded sampler
    story       a training of two steps on problems of the package, each phase beside the plan

The model is a Qwen2 of the shape of R1-Distill-Qwen-1.5B with random weights in bfloat16. Beside each number stands
what `dgpo.plan` predicts. MFU counts 6 FLOPs a weight and token and the pairs of the attention, nothing twice. `--out
FILE` appends the table to a file, and skips the parts that it holds already.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from benchmarks import gpu_parts
from benchmarks.gpu_table import OUT, apart, write

NAMES = ("runs", "logprobs", "watching", "updates", "numbers", "decode", "story")
PARTS = {name: getattr(gpu_parts, name) for name in NAMES}


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)}; all without one")
    parser.add_argument("--tiny", action="store_true", help="every part at a small scale, on a CPU")
    parser.add_argument("--out", type=Path, help="append the table to this file; parts that it holds are skipped")
    args = parser.parse_args(argv)
    if strange := {*args.parts} - {*PARTS}:
        parser.error(f"unknown part {', '.join(sorted(strange))}; there are {', '.join(PARTS)}")
    if not args.tiny and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --tiny runs every part at a small scale on a CPU")
    if args.out:
        os.environ[OUT] = str(args.out)
    done = args.out.read_text() if args.out and args.out.exists() else ""
    where = "CPU" if args.tiny else torch.cuda.get_device_name()
    write(f"\n{where}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}\n")
    write("| part | quantity | measured | plan |\n|---|---|---|---|")
    for name in args.parts or PARTS:
        if (mark := f"| {name} | done | | |") in done:
            continue
        inline = args.tiny or name == "updates"
        PARTS[name](args.tiny) if inline else apart(PARTS[name], args.tiny)
        write(mark)


if __name__ == "__main__":
    main()
