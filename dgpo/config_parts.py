"""The settings that are several: `tiny`, `vllm` and `lora` of a run and of an evaluation."""

from functools import partial
from typing import Annotated

from pydantic import Field

from dgpo.settings import LARGEST, Above0, Count, Positive, Seed, Settings, setting

_policy, _rollout = (partial(setting, group=group) for group in ("policy", "rollout"))


class TinyPolicy(Settings):
    """The architecture and the supervised warm-up of the embedded policy (`model: tiny`)."""

    hidden: Positive = _policy(64, description="width of the embedded policy")
    layers: Positive = _policy(2, description="its layers")
    heads: Positive = _policy(4, description="its attention heads")
    max_difficulty: Positive = _policy(4, description="its worked examples have up to this difficulty")
    step_error_rate: Annotated[float, Field(ge=0, le=1)] = _policy(
        0.3, description="share of their worked steps that are wrong"
    )
    steps: Annotated[int, Field(ge=20, le=LARGEST)] = _policy(1800, description="AdamW steps of its warm-up")
    batch: Positive = _policy(32, description="examples in each of them")
    lr: Above0 = _policy(3e-3, description="peak learning rate: linear warm-up, then cosine to 0")
    init: Above0 = _policy(0.08, description="standard deviation of the initial weights")
    seed: Seed = _policy(0, description="of initialisation and examples, apart from the run's own seed")


class VLLM(Settings):
    """The engine of rollout='vllm': one on each rank, or one on every `tensor_parallel` ranks."""

    gpu_memory: Annotated[float, Field(gt=0, lt=1)] | None = _rollout(
        None,
        description="share of a GPU for vLLM's weights and KV cache; none: 0.4, with sampler_ranks 0.9, in an "
        "evaluation what is free",
    )
    tensor_parallel: Positive = _rollout(1, description="ranks that share one engine")
    sleep: bool = _rollout(True, description="give that memory back during updates (no effect on a CPU)")
    batch_invariant: bool = _rollout(
        False, description="completions do not depend on their batch, by slower kernels, the trainer's too; NVIDIA GPUs"
    )

    @property
    def share(self) -> float:
        return self.gpu_memory or 0.4


class Lora(Settings):
    """Low-rank additions to the policy's linear layers, which alone are trained (PEFT)."""

    r: Count = _policy(0, description="rank of the additions; 0: all weights are trained")
    alpha: Positive = _policy(32, description="the additions are scaled by alpha / r")
    target_modules: list[str] = _policy(
        [], description="names of the layers, such as q_proj; none: all but the output layer"
    )
