"""One GPU, one table: python -m benchmarks.gpu [PART ...] (--tiny runs every part on a CPU)

    runs        `train tiny` for two steps: each ZeRO stage, offloading, float16, the sampler in its own process
    logprobs    token log-probabilities with their gradients: the full matrix, chunks of several sizes, Liger
    watching    what the check of every gradient costs, beside the way that made float32 copies
    adam        AdamW's step over all weights, fused and not
    updates     updates with 8k and 18k tokens a micro-batch, with Liger's kernels; old log-probabilities
    allocator   vLLM's sleeping memory alone, around updates of several shapes, with torch's segments fixed and growing
    numbers     log π of one policy by two passes, and with the logits in bfloat16 and in float32
    checkpoint  saving and loading
    decode      the embedded sampler
    background  the sampler in a process of its own: new weights, and the distance of its log π
    engine      vLLM, where it is installed: sample, sleep, load, wake, sample
    story       a training of two steps on problems of the package, each phase beside the plan

The order is that of what can go wrong: what comes first decides what the rest is worth. `make gpu-wheels` fetches what
a GPU machine without network lacks. The model is a Qwen2 of the shape of R1-Distill-Qwen-1.5B with random weights in
bfloat16. Beside each number stands what `dgpo.plan` predicts. MFU counts 6 FLOPs a weight and token and the pairs of
the attention, nothing twice. The table is appended to benchmarks/RESULTS.md, or with `--out FILE` to another, and the
parts that the file already holds for this card and day are skipped, so the same command continues where it was stopped.
"""

import argparse
import os
import time
from pathlib import Path

import torch

from benchmarks import gpu_kernels, gpu_memory, gpu_parts, gpu_samplers
from benchmarks.gpu_table import OUT, apart, write

RESULTS = Path(__file__).with_name("RESULTS.md")
PARTS = {
    "runs": gpu_parts.runs,
    "logprobs": gpu_kernels.logprobs,
    "watching": gpu_kernels.watching,
    "adam": gpu_kernels.adam,
    "updates": gpu_parts.updates,
    "allocator": gpu_memory.allocator,
    "numbers": gpu_parts.numbers,
    "checkpoint": gpu_parts.checkpoint,
    "decode": gpu_samplers.decode,
    "background": gpu_samplers.background,
    "engine": gpu_samplers.engine,
    "story": gpu_parts.story,
}


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
    out = args.out or (None if args.tiny else RESULTS)
    os.environ.pop(OUT, None)
    if out:
        os.environ[OUT] = str(out)
    done = out.read_text() if out and out.exists() else ""
    where = f"{'CPU' if args.tiny else torch.cuda.get_device_name()}, {time.strftime('%Y-%m-%d')}"
    write(f"\n{where}, torch {torch.__version__}\n")
    write("| part | quantity | measured | plan |\n|---|---|---|---|")
    for name in args.parts or PARTS:
        if (mark := f"| {name} | done: {where} | | |") in done:
            continue
        inline = args.tiny or name in ("updates", "allocator")  # which start processes of their own
        PARTS[name](args.tiny) if inline else apart(PARTS[name], args.tiny)
        write(mark)


if __name__ == "__main__":
    main()
