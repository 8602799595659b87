"""The optimizer's float32 weights and moments in main memory while completions are sampled: 12 bytes a parameter.

DeepSpeed moves them itself for ZeRO stages 1 and 2. For stage 3 its `offload_states` (0.19.8, stage3.py) takes no
optimizer but its own FusedAdam, which compiles for minutes; ours is torch's, and moved here.
"""

from typing import Any

import torch


def to_host(engine) -> None:
    """Free the GPU of what `to_device` brings back. `engine` is DeepSpeed's."""
    if engine.zero_optimization_stage() < 3:
        engine.offload_states(include=_kinds(), pin_memory=torch.cuda.is_available())
    else:
        _move(engine.optimizer, torch.device("cpu"))


def to_device(engine, device: torch.device) -> None:
    """Bring back what `to_host` moved."""
    if engine.zero_optimization_stage() < 3:
        engine.reload_states()
    else:
        _move(engine.optimizer, device)


def _kinds() -> list[Any]:
    from deepspeed.runtime.zero.offload_config import OffloadStateTypeEnum

    return [OffloadStateTypeEnum.hp_params, OffloadStateTypeEnum.optim_states]


def _move(zero, device: torch.device) -> None:
    for flat in zero.fp32_partitioned_groups_flat:
        flat.data = flat.data.to(device)
        state = zero.optimizer.state.get(flat, {})
        for name, value in state.items():
            state[name] = value.to(device)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # vLLM asks the driver for its share, and does not see what torch keeps
