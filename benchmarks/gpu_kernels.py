"""The parts of `benchmarks.gpu` that measure single kernels: log-probabilities, the check of gradients, AdamW."""

import importlib.util

import torch
from torch.nn import functional as F

from benchmarks.gpu_parts import build, settings
from benchmarks.gpu_table import emptied, row, seconds
from dgpo import shapes
from dgpo.model.logprobs import CHUNK_BYTES, token_logprobs

HEADS = {"1.5B": (151_936, 1536), "7B": (152_064, 3584)}


def logprobs(is_tiny: bool) -> None:
    """Token log-probabilities with their gradients: the full matrix, chunks of several sizes, Liger's fused kernel."""
    for size, (V, H) in ({"tiny": (101, 16)} if is_tiny else HEADS).items():
        one_head(is_tiny, size, V, H)


def one_head(is_tiny: bool, size: str, V: int, H: int) -> None:
    device, dtype, N = ("cpu", torch.float32, 32) if is_tiny else ("cuda", torch.bfloat16, 8192)
    hidden = torch.randn(N, H, device=device, dtype=dtype).requires_grad_()
    weight = (torch.randn(V, H, device=device, dtype=dtype) / H**0.5).requires_grad_()
    targets = torch.randint(V, (N,), device=device)
    kinds = {"naive": lambda: F.linear(hidden, weight).float().log_softmax(-1).gather(1, targets[:, None])}
    for mib in (64, 512, 2048):
        kinds[f"chunks of {mib} MiB"] = lambda mib=mib: in_chunks(mib, hidden, weight, targets)
    kinds["float32 logits"] = lambda: in_chunks(512, hidden, weight, targets, is_wide=True)
    if not is_tiny and importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        kinds["Liger"] = lambda: -LigerFusedLinearCrossEntropyLoss(reduction="none")(weight, hidden, targets)
    else:
        row(f"log-probabilities, {size}, Liger", "seconds", "not installed or no GPU")
    for name, logp in kinds.items():
        part = f"log-probabilities, {size}, {name}, {N} × {V}"
        with emptied():
            before = 0 if is_tiny else torch.cuda.memory_allocated()
            row(part, "seconds", seconds(lambda logp=logp: torch.autograd.grad(logp().sum(), (hidden, weight))))
            if not is_tiny:
                row(part, "peak memory, GB", (torch.cuda.max_memory_allocated() - before) / 1e9)


def in_chunks(mib: int, hidden, weight, targets, is_wide: bool = False):
    CHUNK_BYTES[weight.device.type] = mib * 2**20  # for the backward pass as well
    return token_logprobs(hidden, weight, targets, is_wide=is_wide)[0]


def watching(is_tiny: bool) -> None:
    """The engine's check of every gradient of a policy, and the square of a float32 copy, which it once was."""
    config = settings(is_tiny)
    gradients = [torch.randn_like(p) for p in build(config).parameters()]
    ways = {
        "norm in float32": lambda g: torch.linalg.vector_norm(g, dtype=torch.float32).square(),
        "float32 copies": lambda g: g.float().square().sum(),
    }
    for name, norm in ways.items():
        with emptied():
            before = 0 if is_tiny else torch.cuda.memory_allocated()
            row(f"gradient check, {name}", "seconds", seconds(lambda norm=norm: [norm(g) for g in gradients]))
            if not is_tiny:
                row(f"gradient check, {name}", "GB", (torch.cuda.max_memory_allocated() - before) / 1e9)


def adam(is_tiny: bool) -> None:
    """AdamW's step over all weights in float32, fused and not: seconds, and what it holds besides its state."""
    config = settings(is_tiny)
    count = 1000 if is_tiny else shapes.shape_of(config).parameters
    for name, fused in (("fused", True), ("tensor by tensor", False)):
        with emptied():
            weights = [torch.zeros(count // 8, device=config.device) for _ in range(8)]
            for weight in weights:
                weight.grad = torch.ones_like(weight)
            optimizer = torch.optim.AdamW(weights, fused=fused, foreach=not fused)
            optimizer.step()  # which makes its state
            if not is_tiny:
                torch.cuda.reset_peak_memory_stats()
            before = 0 if is_tiny else torch.cuda.memory_allocated()
            row(f"AdamW, {name}", "seconds", seconds(optimizer.step))
            if not is_tiny:
                row(f"AdamW, {name}", "GB", (torch.cuda.max_memory_allocated() - before) / 1e9)
            del weights, optimizer
