"""The error message when a GPU runs out of memory."""

from dgpo.config import Config
from dgpo.distributed import process_group
from dgpo.errors import Explained


class OutOfMemory(Explained, RuntimeError):
    """The GPU ran out of memory: the phase, what `plan` predicted for it, and the settings that need less."""


_REMEDIES = {
    "rollout": "generation_batch_size, max_new_tokens",
    "load": "vllm.gpu_memory, vllm.sleep",
    "evaluate": "generation_batch_size, max_new_tokens",
    "old_logp": "max_tokens_per_micro_batch, micro_batch_size",
    "update": "max_tokens_per_micro_batch, micro_batch_size, gradient_checkpointing, zero_stage",
}


def out_of_memory(config: Config, phase: str, error: Exception) -> OutOfMemory:
    """The error to raise in place of torch's own."""
    from dgpo import plan

    try:
        known = plan.predict(config, process_group.world_size() + config.sampler_ranks)
    except Exception as unknown:  # noqa: BLE001 (whatever goes wrong in plan, running out of memory is the news)
        predicted = f"plan has no prediction: {unknown}"
    else:
        memory = {"evaluate": known.memory["rollout"], **known.memory}
        here = memory.get(phase, {})
        predicted = f"plan predicted a peak of {known.peak / 1e9:.1f} GB"
        if here:
            parts = ", ".join(f"{part} {b / 1e9:.2f}" for part, b in here.items())
            predicted += f", and {sum(here.values()) / 1e9:.2f} GB in this phase: {parts}"
    remedy = f"\nsettings that change it: {_REMEDIES[phase]}" if phase in _REMEDIES else ""
    return OutOfMemory(f"out of GPU memory in {phase}: {error}\n{predicted}{remedy}")
