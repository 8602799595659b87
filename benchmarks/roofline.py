"""An upper bound on the trainer's speed on a GPU, by counting: python -m benchmarks.roofline [RECIPE ...]

The forward pass, `token_logprobs`, the method and the backward pass of a micro-batch run on the meta device, which
computes nothing. A dispatch mode counts what each kernel would read, write and multiply. A kernel then takes

    max( bytes / (0.8 · bandwidth),  FLOPs / (0.7 · peak),  4 µs )

Attention counts as one fused kernel. Nothing here was measured: a real step takes longer.
"""

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from transformers import AutoModelForCausalLM

from dgpo import cards, methods, plan, shapes
from dgpo import config as configs
from dgpo.model import logprobs
from dgpo.model.policy import recompute_layers
from dgpo.objective import surrogate

RECIPES = ("r1-distill-1.5b", "r1-distill-7b", "r1-distill-14b")
_BANDWIDTH, _COMPUTE, _LAUNCH = 0.8, 0.7, 4e-6  # shares that good kernels reach; seconds
_NO_KERNEL = {torch.ops.aten._unsafe_view.default, torch.ops.aten.detach.default, torch.ops.aten.alias.default}


@dataclass
class Kernels:
    """The kernels of a phase: `work` has (bytes, FLOPs) of each; `syncs` counts how often the host waits for one."""

    work: list[tuple[float, float]] = field(default_factory=list)
    syncs: int = 0

    @property
    def bytes(self) -> float:
        return sum(moved for moved, _ in self.work)

    @property
    def flops(self) -> float:
        return sum(flops for _, flops in self.work)

    def seconds(self, card: cards.Hardware) -> float:
        """The roofline of each kernel, added up: nothing overlaps."""
        bandwidth, compute = _BANDWIDTH * card.bandwidth, _COMPUTE * card.flops
        return sum(max(moved / bandwidth, flops / compute, _LAUNCH) for moved, flops in self.work)


class _Count(TorchDispatchMode):
    def __init__(self, kernels: Kernels):
        super().__init__()
        self.kernels = kernels

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:  # .item(), for which a meta tensor has no value
            self.kernels.syncs += 1
            return True
        out = func(*args, **kwargs)
        if not (func.is_view or func in _NO_KERNEL):
            tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, torch.Tensor)]
            moved = sum(min(t.nbytes, t.untyped_storage().nbytes()) for t in tensors)  # expanded ones are read once
            flops = flop_registry.get(func.overloadpacket)
            self.kernels.work.append((moved, flops(*args, **kwargs, out_val=out) if flops else 0))
        return out


def count(config: configs.Config, sequences: int, length: int) -> dict[str, Kernels]:
    """The kernels of one micro-batch of equal sequences, by phase: "old_logp" and "update" (forward and backward).

    A quarter of `max_prompt_tokens` of each sequence is its prompt, as `dgpo.plan` assumes.
    """
    prompt, method = config.max_prompt_tokens // 4, methods.get(config.method, **config.method_params)
    with torch.device("meta"):
        dtype = getattr(torch, config.dtype)
        lm: Any = AutoModelForCausalLM.from_config(
            shapes.known(config.model), dtype=dtype, attn_implementation="sdpa"
        ).eval()
        tokens = torch.zeros(sequences, length, dtype=torch.long)
        old, advantage, weight = torch.zeros(3, sequences, length - prompt)
    if config.gradient_checkpointing:
        recompute_layers(lm)

    def logp(with_entropy):
        hidden = lm.base_model(input_ids=tokens, use_cache=False).last_hidden_state[:, prompt - 1 : -1]
        args = hidden.flatten(0, 1), lm.get_output_embeddings().weight, tokens[:, prompt:].flatten()
        return logprobs.token_logprobs(*args, with_entropy=with_entropy)[0].view(old.shape)

    found = {"old_logp": Kernels(), "update": Kernels()}
    with _as_on_a_gpu():
        with _Count(found["old_logp"]), torch.no_grad():
            logp(with_entropy=True)
        with _Count(found["update"]):
            now = logp(with_entropy=config.entropy_coef != 0)
            surrogate(now, method.weight(now, old, advantage), advantage, weight).backward()
    return found


@contextmanager
def _as_on_a_gpu():
    """Chunks as large as on CUDA, and fused attention."""

    def fused(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        assert attn_mask is None and is_causal  # noqa: PT018 (the trainer's batches need no mask)
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) if enable_gqa else x for x in (k, v))
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, True, scale=scale)[0]

    chunks = mock.patch.dict(logprobs.CHUNK_BYTES, meta=logprobs.CHUNK_BYTES["cuda"])
    with chunks, mock.patch.object(F, "scaled_dot_product_attention", fused):
        yield


def row(recipe: str, gpus: int, card: str) -> str:
    """A line of the table: seconds a step of the recipe on each GPU, by roofline and by `dgpo.plan`, and MFU."""
    config, hardware = configs.load(recipe), cards.CARDS[card]
    length = config.max_prompt_tokens // 4 + config.max_new_tokens // 2
    budget = config.max_tokens_per_micro_batch or config.micro_batch_size * length
    sequences = max(1, budget // length)
    found, planned = count(config, sequences, length), plan.predict(config, gpus, hardware)
    rows = config.batch_size / gpus / sequences  # micro-batches of a step
    shape, pairs = planned.shape, sequences * length**2 / 2
    model = 3 * shape.forward_flops(sequences * length, pairs, sequences * (length - config.max_prompt_tokens // 4))
    update = found["update"].seconds(hardware)
    cells = [f"{rows * found[phase].seconds(hardware):.0f} / {planned.seconds[phase]:.0f}" for phase in found]
    moved, kernels = found["update"].bytes / 1e9, len(found["update"].work)
    mfu = model / update / hardware.flops
    return f"| {recipe}, {gpus} × {card} | {' | '.join(cells)} | {mfu:.0%} | {kernels:,} | {moved:,.0f} GB |"


def main(recipes) -> None:
    print("| seconds a step: roofline / plan | old_logp | update | MFU of the update, at most | its kernels | move |")
    print("|---|---|---|---|---|---|")
    for card in ("h100", "h200"):
        for recipe in recipes or RECIPES:
            print(row(recipe, 8, card), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
