"""Free GPU memory against what the phases of a run will hold, before the first step.

Adam's moments do not exist until the first optimizer step: a run that starts well can die at its end. So the numbers of
`plan`, not those of the moment, are compared with what the driver says is free. Loaded on GPUs alone.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from dgpo import cards, plan, shapes, ways
from dgpo.config import Config, ConfigError
from dgpo.distributed import process_group
from dgpo.errors import first_line
from dgpo.memory import OutOfMemory
from dgpo.progress import tell
from dgpo.run.telemetry import is_out_of_memory

_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_LARGEST_SHARE = 0.92  # of a GPU for vLLM in an evaluation: its own default
_OUTSIDE = 1e9  # bytes of a GPU that vLLM needs beside its share


def free() -> tuple[int, int]:
    """(free, all) bytes of this rank's GPU, as the driver counts them, other processes included."""
    return torch.cuda.mem_get_info()


def check(config: Config) -> None:
    """Raise ConfigError unless this rank's GPU has room for every phase of a training, by `plan`'s prediction.

    A GPU that a sampler has for itself must be large enough when it is empty: to ask what is free there would take half
    a GB of it. `force` skips the check. A run for which `plan` has no prediction is not checked.
    """
    if config.force:
        return
    (there, total), ranks = free(), process_group.world_size()
    hardware = cards.hardware_of(memory=float(total))
    try:
        known = plan.predict(config, ranks + config.sampler_ranks, hardware)
    except ConfigError:
        raise
    except Exception as unknown:  # noqa: BLE001 (an architecture that plan cannot count trains all the same)
        tell(f"plan has no prediction, so free memory is not checked: {first_line(unknown)}")
        return
    room = {phase: total if phase == plan.SAMPLER else there for phase in known.memory}
    need = {phase: sum(parts.values()) + plan.CONTEXT for phase, parts in known.memory.items()}
    worst = max(known.memory, key=lambda phase: need[phase] - room[phase])
    if need[worst] > room[worst]:
        parts = sorted(known.memory[worst].items(), key=lambda part: -part[1])
        held = ", ".join(f"{part} {b / 1e9:.1f}" for part, b in parts)
        raise ConfigError(
            f"plan: the {worst} takes {need[worst] / 1e9:.1f} GB of a GPU ({held}, CUDA {plan.CONTEXT / 1e9:.0f}), and "
            f"{room[worst] / 1e9:.1f} of {total / 1e9:.1f} GB are free: "
            f"{ways.advice(config, ranks, hardware, room[worst])}; force=true starts it anyway"
        )


def for_evaluation(config, shape, length: int):
    """The EvalConfig with the sampler's share of this rank's GPU set from what is free.

    shape     the model's transformers config; with rollout="transformers" its weights are on the GPU already
    length    the most tokens of a prompt and its completion

    vLLM takes all that is free unless `vllm.gpu_memory` is given; the embedded sampler gets fewer rows at once where
    `generation_batch_size` of the longest do not fit. Raises ConfigError, with the numbers, where not even one
    sequence fits; `force` skips the check.
    """
    counted = shapes.Shape.of(shape, config.trust_remote_code)
    width = 4 if config.dtype == "float32" else 2
    there, total = free()
    sequence = 2 * counted.keys * counted.layers * width * length
    if config.rollout == "vllm":
        share = config.vllm.gpu_memory or int(100 * min(_LARGEST_SHARE, (there - _OUTSIDE) / total)) / 100
        left, weights = share * total - counted.parameters * width, counted.parameters * width
        if share * total > there and not config.force:
            raise ConfigError(
                f"vllm.gpu_memory={share:g} is {share * total / 1e9:.1f} GB of this GPU, and {there / 1e9:.1f} of "
                f"{total / 1e9:.1f} GB are free: leave it out to take what is free; force=true starts it anyway"
            )
        if left < sequence and not config.force:
            raise ConfigError(
                f"model={config.model!r} takes {weights / 1e9:.1f} GB, and a sequence of {length} tokens "
                f"{sequence / 1e9:.1f} GB of KV cache: more than the {share * total / 1e9:.1f} GB that vLLM has of "
                f"{total / 1e9:.1f}; use a smaller max_new_tokens or a larger GPU; force=true starts it anyway"
            )
        own = {"gpu_memory": max(0.01, share), "sleep": False}
        return config.model_copy(update={"vllm": config.vllm.model_copy(update=own)})
    row = sequence + 32 * counted.words  # scores, log-probabilities, and two of float64
    rows = int((there - plan.CONTEXT) / row)
    if rows < 1 and not config.force:
        raise ConfigError(
            f"a sequence of {length} tokens takes {row / 1e9:.1f} GB, and {there / 1e9:.1f} of {total / 1e9:.1f} GB "
            "are free beside the weights: use a smaller max_new_tokens, or rollout=vllm; force=true starts it anyway"
        )
    if rows >= config.generation_batch_size or config.force:
        return config
    tell(f"generation_batch_size={config.generation_batch_size}: {rows} of the longest fit; it samples {rows} at once")
    return config.model_copy(update={"generation_batch_size": rows})


@contextmanager
def explained(config) -> Iterator[None]:
    """Name the settings that help where an evaluation runs out of memory."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of GPU memory in an evaluation: {first_line(error)}; settings that change it: max_new_tokens, "
            f"generation_batch_size={config.generation_batch_size}, vllm.gpu_memory={config.vllm.gpu_memory}"
        ) from error


def use_expandable_segments(config) -> None:
    """Let torch's allocator grow its segments: micro-batches vary in shape, and what was freed fits no other.

    Before the first allocation on the GPU, and unless the environment sets the allocator. Only one of the two variables
    is read by vLLM 0.27, whose sleeping pool cannot be of such segments and switches them off for itself. An engine
    over several ranks, or in another process on this GPU, shares buffers between processes, which such segments do not
    allow.
    """
    apart = getattr(config, "asynchronous", False) and config.rollout == "vllm" and not config.sampler_ranks
    if config.vllm.tensor_parallel == 1 and not apart and not any(os.environ.get(name) for name in _ALLOCATOR):
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
