"""vLLM against the embedded sampler, on a CPU and one thread: python -m benchmarks.samplers [rounds]

16 to 1,024 completions of 24 tokens by a random policy, prompts of 16 tokens, eight completions of each prompt, fresh
seeds in every round. Both samplers sit in one process behind the trainer's protocol and take turns, so that what slows
the machine down slows both; a row is the median over rounds of CPU seconds and of their ratio. Loading new weights is
timed alike. Needs an environment with vLLM (`make test-vllm` makes one: .venv-vllm/bin/python -m benchmarks.samplers).
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import workload

COUNTS = (16, 64, 256, 1024)
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB: a block is 128 tokens, and 1,024 sequences need one each


def seconds(call, *args) -> float:
    start = time.process_time()
    call(*args)
    return time.process_time() - start


def main(rounds: int = 5) -> None:
    import torch

    from dgpo import config as configs
    from dgpo import rollout
    from dgpo.evaluation.heldout import encode
    from dgpo.model import tiny
    from dgpo.model.policy import Policy

    torch.set_num_threads(1)
    print("| policy | completions | embedded, CPU s | vLLM, CPU s | vLLM / embedded |\n|---|---|---|---|---|")
    for size in workload.SIZES:
        with tempfile.TemporaryDirectory() as folder:
            workload.make_model(Path(folder), size, heads=2)  # vLLM's CPU attention has no heads of 16 dimensions
            config = configs.load("tiny", model=folder, rollout="vllm", generation_batch_size=max(COUNTS), threads=1)
            lm, tokenizer, source = tiny.load_policy(config)
            policy = Policy(lm)
            samplers = [
                rollout.TransformersSampler(policy, tokenizer, config.generation_batch_size),
                rollout.make(config, policy, tokenizer, source, workload.PROMPT_TOKENS + workload.TOKENS),
            ]
            for count in COUNTS:
                prompts = encode(tokenizer, [workload.prompt(i // workload.COMPLETIONS) for i in range(count)])
                sampling = rollout.Sampling(workload.TOKENS)
                taken = []
                for r in range(rounds + 1):
                    seeds = [r * count + i for i in range(count)]
                    taken.append([seconds(s.generate, prompts, seeds, sampling) for s in samplers])
                _row(size, f"{count:,}", taken[1:])  # the first one warms up
            weights = [(name, p.clone()) for name, p in lm.named_parameters()]
            taken = [[seconds(s.load, weights) for s in samplers] for _ in range(rounds + 1)]
            print(f"| {size} | new weights | | {statistics.median(b for _, b in taken[1:]):.3f} | |", flush=True)


def _row(size, what, taken) -> None:
    ours, theirs = (statistics.median(column) for column in zip(*taken, strict=True))
    ratios = sorted(b / a for a, b in taken)
    print(
        f"| {size} | {what} | {ours:.3f} | {theirs:.3f} | "
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |",
        flush=True,
    )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
