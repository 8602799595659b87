"""LoRA by PEFT: each linear layer keeps its weight W and learns a low-rank addition to it.

    W' = W + alpha/r · B A          A [r, in] random, B [out, r] zero at the start: training begins at W

The layers are changed in place, so the model stays what `transformers` made it. Everything outside of the trainer (the
sampler, `policy/`, an evaluation) sees ordinary weights: W' under W's name. Source: arXiv 2106.09685.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dgpo.config_parts import Lora
from dgpo.errors import ConfigError
from dgpo.seeds import fold_in

_BASE, _ADAPTER = ".base_layer.", ".lora_"  # how PEFT names the weight of a layer that it changed, and its own


def add(lm: nn.Module, settings: Lora, seed: int) -> None:
    """Freeze the model and add adapters that learn to its linear layers, except the output layer.

    Raises ConfigError if `target_modules` names no layer.
    """
    from peft import LoraConfig, inject_adapter_in_model

    lm.requires_grad_(False)
    config = LoraConfig(
        r=settings.r, lora_alpha=settings.alpha, target_modules=settings.target_modules or "all-linear", bias="none"
    )
    with torch.random.fork_rng():
        torch.manual_seed(fold_in(seed, "lora"))
        try:
            inject_adapter_in_model(config, lm)
        except ValueError:
            last = sorted({name.rpartition(".")[2] for name, m in lm.named_modules() if isinstance(m, nn.Linear)})
            raise ConfigError(
                f"lora.target_modules={settings.target_modules} must name linear layers of the model: {', '.join(last)}"
            ) from None


def is_adapted(lm: nn.Module) -> bool:
    return any(_ADAPTER in name for name, _ in lm.named_parameters())


def merged(lm: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """(name as in the checkpoint, tensor) of each weight, W' for a layer with an adapter, in W's precision."""
    layers: dict[str, Any] = {f"{n}{_BASE}weight": m for n, m in lm.named_modules() if hasattr(m, "get_delta_weight")}
    for name, weight in lm.named_parameters():
        if _ADAPTER in name:
            continue
        if name in layers:
            (adapter,) = layers[name].active_adapters
            weight = (weight.float() + layers[name].get_delta_weight(adapter).float()).to(weight.dtype)
        yield name.replace(_BASE, "."), weight
