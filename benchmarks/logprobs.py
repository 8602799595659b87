"""Peak memory and time of token log-probabilities against the naive computation: python -m benchmarks.logprobs

2,048 tokens, 151,936 words, hidden 1,536, float32, forward and backward, with and without the entropy of each token. A
variant runs in a process of its own; its peak is the largest resident set less that with the inputs (hidden states and
output layer) in place. The gradient of the output layer, 0.93 GB, is part of every peak; the second column leaves out
the gradients of the inputs, which are results and not the computation's own memory.
"""

import resource
import subprocess
import sys
import time

import torch
from torch.nn import functional as F

from dgpo.model.logprobs import token_logprobs

TOKENS, WORDS, HIDDEN = 2048, 151_936, 1536


def naive(hidden, weight, targets):
    """The whole `[N, V]` in float32, as a first implementation has it."""
    logp = F.linear(hidden, weight).float().log_softmax(-1)
    return logp.gather(1, targets[:, None]).squeeze(1)


def naive_entropy(hidden, weight, targets):
    logp = F.linear(hidden, weight).float().log_softmax(-1)
    return logp.gather(1, targets[:, None]).squeeze(1) - 0.01 * (logp.exp() * logp).sum(-1)


def chunked(hidden, weight, targets):
    return token_logprobs(hidden, weight, targets)[0]


def chunked_entropy(hidden, weight, targets):
    logp, entropy = token_logprobs(hidden, weight, targets, with_entropy=True)
    return logp + 0.01 * entropy


VARIANTS = {f.__name__: f for f in (naive, chunked, naive_entropy, chunked_entropy)}


def measure(variant: str) -> None:
    """Run one variant in this process; print peak GB, the same without input gradients, CPU seconds and checksums."""
    torch.manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN).requires_grad_()
    weight = torch.randn(WORDS, HIDDEN).div_(HIDDEN**0.5).requires_grad_()  # in place: no peak before the start
    targets = torch.randint(WORDS, (TOKENS,))
    before, start = _peak(), time.process_time()
    out = VARIANTS[variant](hidden, weight, targets)
    (torch.linspace(-1, 1, TOKENS) * out).sum().backward()
    peak, seconds = _peak() - before, time.process_time() - start
    gradients = hidden.grad.nbytes + weight.grad.nbytes
    print(peak / 1e9, (peak - gradients) / 1e9, seconds, *(float(x.grad.norm()) for x in (hidden, weight)))


def main() -> None:
    """Print the table of all variants and the ratios chunked/naive."""
    results = {}
    print("| | peak memory (GB) | without input gradients (GB) | CPU s | ‖∇hidden‖ | ‖∇weight‖ |")
    print("|---|---|---|---|---|---|")
    for variant in VARIANTS:
        command = [sys.executable, "-m", "benchmarks.logprobs", variant]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        results[variant] = [float(x) for x in out.split()]
        print(f"| {variant} | " + " | ".join(f"{x:.4g}" for x in results[variant]) + " |", flush=True)
    for end in ("", "_entropy"):
        ratios = [a / b for a, b in zip(results["chunked" + end], results["naive" + end], strict=True)]
        print(f"| chunked{end} / naive{end} | " + " | ".join(f"{r:.3f}" for r in ratios) + " |")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    measure(sys.argv[1]) if sys.argv[1:] else main()
