"""The needs of a run, before it starts: memory of each GPU by part and phase, and seconds of a step.

    python -m dgpo plan r1-distill-1.5b --gpus 8 --memory 141

Pure arithmetic on the recipe and the model's shape: parameters are counted on the meta device, bytes and FLOPs from the
architecture, and times are FLOPs or bytes over what the hardware reaches. The assumptions are printed with the result.
Units: bytes, FLOPs and seconds, of one GPU.
"""

from dataclasses import dataclass

from dgpo.cards import Hardware
from dgpo.config import Config, ConfigError
from dgpo.model.logprobs import CHUNK_BYTES
from dgpo.shapes import Shape, shape_of

_DEEPSPEED_BUCKET = 500_000_000  # elements of its reduce bucket
_DEEPSPEED_LIVE = 1_000_000_000  # gathered parameters that ZeRO-3 keeps at a time
_LAUNCH = 0.85e-3  # seconds in which Python launches one layer of a decoding step (measured: 28 layers, an H100's host)
SAMPLER = "sampling alone"  # the phase of a GPU that a sampler has for itself
CONTEXT = 3e9  # bytes: CUDA context, NCCL, what the allocator cannot use


@dataclass(frozen=True)
class Plan:
    """`memory[phase][part]` in bytes and `seconds[phase]`; the largest phase is the peak.

    `samplers` of the `gpus` do nothing but sample, while the others learn from the step before; `length` is the mean
    completion.
    """

    shape: Shape
    gpus: int
    samplers: int
    length: float
    hardware: Hardware
    memory: dict[str, dict[str, float]]
    host: float
    seconds: dict[str, float]
    assumptions: list[str]

    @property
    def peak(self) -> float:
        return max(sum(parts.values()) for parts in self.memory.values())

    @property
    def step(self) -> float:
        """Seconds of a step."""
        total, sampling = sum(self.seconds.values()), self.seconds["prefill"] + self.seconds["decode"]
        return max(sampling, total - sampling) if self.samplers else total

    @property
    def fits(self) -> bool:
        return self.peak + CONTEXT <= self.hardware.memory

    def __str__(self) -> str:
        parts = list(dict.fromkeys(part for phase in self.memory.values() for part in phase))
        lines = [
            f"{self.shape.parameters:,} parameters on {self.gpus} GPU{'s' * (self.gpus > 1)} "
            f"of {self.hardware.memory / 1e9:.0f} GB"
            + (f": {self.gpus - self.samplers} train, {self.samplers} sample" if self.samplers else ""),
            "",
            _row("GB of each GPU", *self.memory),
        ]
        for part in parts:
            lines.append(_row(part, *(_gb(phase.get(part)) for phase in self.memory.values())))
        lines += [
            _row("together", *(_gb(sum(phase.values())) for phase in self.memory.values())),
            f"peak {self.peak / 1e9:.1f} GB and {CONTEXT / 1e9:.0f} GB for CUDA and NCCL: "
            + ("fits" if self.fits else "DOES NOT FIT"),
        ]
        if self.host:
            lines.append(f"host memory for each GPU: {self.host / 1e9:.1f} GB")
        lines += ["", _row("phase", "seconds", "share")]
        lines += [_row(phase, f"{s:.3g}", f"{s / self.step:.0%}") for phase, s in self.seconds.items()]
        lines += [_row("a step", f"{self.step:.3g}", ""), "", "assumed:"]
        return "\n".join([*lines, *(f"  {line}" for line in self.assumptions)])


def predict(config: Config, gpus: int = 1, hardware: Hardware | None = None, length: float | None = None) -> Plan:
    """The Plan of a config on `gpus`; `length` is the mean completion, in tokens (default: half of max_new_tokens).

    `sampler_ranks` of the GPUs sample, the others train. Raises ConfigError for a model that cannot be found, and for
    numbers of GPUs and tokens that no run can have.
    """
    if gpus < 1:
        raise ConfigError(f"gpus={gpus} must be positive")
    ranks = gpus - config.sampler_ranks
    if config.sampler_ranks > ranks:
        raise ConfigError(
            f"sampler_ranks={config.sampler_ranks} must be at most half of the GPUs, {gpus}: each belongs to a rank, "
            "which trains on a GPU of its own"
        )
    if config.prompts_per_step < ranks:
        raise ConfigError(f"prompts_per_step={config.prompts_per_step} must be at least the number of GPUs, {ranks}")
    length = config.max_new_tokens / 2 if length is None else length
    if not 0 < length <= config.max_new_tokens:
        raise ConfigError(f"length={length:g} must be above 0 and at most max_new_tokens={config.max_new_tokens}")
    if config.rollout == "vllm" and ranks % config.vllm.tensor_parallel:
        raise ConfigError(f"vllm.tensor_parallel={config.vllm.tensor_parallel} must divide the number of GPUs, {gpus}")
    hardware, shape = hardware or Hardware(), shape_of(config)
    work = Work(config, shape, ranks, length, hardware)
    parts = memory(work), _host(work), _seconds(work), _assumed(work)
    return Plan(shape, gpus, config.sampler_ranks, length, hardware, *parts)


class Work:
    """Sizes of one step on one GPU. `gpus`: those that train; `length`: tokens of a mean completion."""

    def __init__(self, config: Config, shape: Shape, gpus: int, length: float, hardware: Hardware):
        self.config, self.shape, self.gpus, self.length, self.hardware = config, shape, gpus, length, hardware
        self.width = 4 if config.dtype == "float32" else 2
        self.device = "cpu" if config.device == "cpu" else "cuda"
        self.stage, self.offload = config.zero_stage, config.offload
        self.rows = -(-config.batch_size // gpus)
        self.sampled = -(-config.batch_size // (config.sampler_ranks or gpus))  # on one GPU that samples
        self.prompt = config.max_prompt_tokens / 4
        self.longest = config.max_prompt_tokens + config.max_new_tokens
        self.tokens = self.rows * (self.prompt + length)
        self.pairs = self.rows * (self.prompt + length) ** 2 / 2
        self.micro = config.max_tokens_per_micro_batch or config.micro_batch_size * self.longest
        self.updates = config.num_minibatches * config.epochs
        self.micros = max(1.0, self.tokens / config.num_minibatches / self.micro) * self.updates
        self.weight_bytes = shape.parameters * self.width
        self.trained = config.lora.r * shape.lora_width if config.lora.r else shape.parameters
        self.engine = config.rollout == "vllm"
        self.spread = config.vllm.tensor_parallel if self.engine else 1  # GPUs that share a sampler, and its sequences
        self.live_rows = min(self.sampled * self.spread, config.generation_batch_size)  # at once in the sampler
        self.kv_bytes = 2 * shape.keys * shape.layers * self.width / self.spread  # of one token, on one GPU
        self.sampler_weights = self.weight_bytes / self.spread if self.engine else 0.0
        self.kv_cache = self.live_rows * self.longest * self.kv_bytes
        if self.engine:  # it takes all that it is given
            self.kv_cache = config.vllm.share * hardware.memory - self.sampler_weights
            if self.kv_cache < self.longest * self.kv_bytes:
                raise ConfigError(
                    f"vllm.gpu_memory={config.vllm.share} of {hardware.memory / 1e9:g} GB does not hold the "
                    f"weights ({self.sampler_weights / 1e9:.1f} GB) and one sequence of {self.longest} tokens"
                )


def memory(work: Work) -> dict[str, dict[str, float]]:
    """Bytes by phase and part."""
    config, shape, width, gpus = work.config, work.shape, work.width, work.gpus
    sharded = work.weight_bytes / gpus
    on_host = work.offload.startswith("optimizer")
    split = sharded if work.stage == 3 else work.weight_bytes
    own_copy = not work.engine and (work.stage == 3 or config.asynchronous)
    states = {
        "weights": 0 if work.offload == "optimizer+params" else split,
        "optimizer": 0 if on_host else 12 * work.trained / gpus,  # float32 weights and both moments, ZeRO-1 to 3
        "reference": split if config.log_reference_kl or config.kl_coef else 0,
        # the embedded sampler has whole weights under ZeRO-3 and in a process of its own; else it shares the trained
        "sampler's copy": work.weight_bytes if own_copy and not config.sampler_ranks else 0,
    }
    gathered = min(shape.parameters, _DEEPSPEED_LIVE) * width if work.stage == 3 else 0
    layer = shape.kept_bytes(width)
    kept = shape.layers * width * shape.hidden + layer if config.gradient_checkpointing else shape.layers * layer
    head = 0 if config.lora.r else shape.words * shape.hidden  # a frozen one has no gradient
    forward = {
        "gathered": gathered,
        "activations": work.micro * (layer + width * shape.hidden),
        "logits": 3 * CHUNK_BYTES[work.device],
    }
    # between micro-batches: from stage 2 on each rank adds up its part, in float32
    gradients = 4 * work.trained / gpus if work.stage >= 2 else work.trained * width
    update = {
        "gradients": 0 if on_host and work.stage >= 2 else gradients,
        "buckets": _DEEPSPEED_BUCKET * width,  # made whole, however small the model; ZeRO-3 keeps it
        "gathered": gathered,
        "activations": work.micro * kept,
        # the head's gradient: its sum in float32, one product and the result
        "logits": 3 * CHUNK_BYTES[work.device] + head * (4 + 2 * width if width == 2 else width),
    }
    rollout = {
        "sampler's copy": work.sampler_weights or work.weight_bytes * own_copy,
        "KV cache": work.kv_cache,
        # scores, log-probabilities, and two of float64; vLLM has it within its share
        "sampling": 0 if work.engine else work.live_rows * shape.words * 32,
    }
    elsewhere = {SAMPLER: rollout} if config.sampler_ranks else {}
    if elsewhere:
        rollout = {}
    elif config.asynchronous or (work.engine and not config.vllm.sleep):  # the sampler keeps it while others work
        states |= rollout
        if config.asynchronous and work.engine:  # it takes them out of a buffer as large as the largest of them
            states["new weights"] = shape.words * shape.hidden * width
    # AdamW's own: the gradient in float32 and the denominator
    step = {
        "gradients": 0 if on_host else gradients / (1 if work.stage >= 2 else gpus),
        "buckets": _DEEPSPEED_BUCKET * width if work.stage == 3 else 0,
        "step": 0 if on_host else 8 * work.trained / gpus,
    }
    if work.offload == "rollout":  # it is in main memory, until the updates
        rollout["optimizer"] = 0
    phases = {"rollout": rollout, "old_logp": forward, "update": update, "optimizer step": step}
    phases = {phase: {**states, **parts} for phase, parts in phases.items()} | elsewhere
    return {phase: {part: b for part, b in parts.items() if b} for phase, parts in phases.items()}


def _host(work: Work) -> float:
    """Bytes of main memory for each GPU, for offloaded tensors."""
    if work.offload == "none":
        return 0.0
    if work.offload == "rollout":
        return 12 * work.trained / work.gpus  # float32 weights and moments
    params = work.weight_bytes if work.offload == "optimizer+params" else 0
    return (16 * work.trained + params) / work.gpus  # and gradients


def _seconds(work: Work) -> dict[str, float]:
    config, shape, gpus, hardware = work.config, work.shape, work.gpus, work.hardware
    stream, compute = hardware.bandwidth * hardware.streaming, hardware.flops * hardware.mfu
    if work.width == 4:
        compute /= 16  # float32 outside the tensor cores: 67 TFLOP/s of 989
    outputs = work.rows * work.length
    forward = shape.forward_flops(work.tokens, work.pairs, outputs)
    again = shape.forward_flops(work.tokens, work.pairs, 0) if config.gradient_checkpointing else 0
    head_again = 2 * shape.words * shape.hidden * outputs
    passes = 2 if config.lora.r else 3  # forward, backward to inputs, and to the weights if they are trained
    sampled = work.sampled * work.length  # tokens

    if work.engine:  # a finished sequence makes room for the next; the last one runs alone
        context = work.prompt + work.length / 2
        rows = min(work.live_rows, max(1.0, work.kv_cache / (work.kv_bytes * context)))
        steps = max(config.max_new_tokens, sampled * work.spread / rows)
        read = steps * work.sampler_weights + sampled * work.spread * context * work.kv_bytes
        decode_flops, host = shape.forward_flops(sampled, sampled * context, sampled), 0.0
    else:  # every call runs to its longest completion, over all rows and the padded prompt
        steps = -(-work.sampled // config.generation_batch_size) * config.max_new_tokens
        context = config.max_prompt_tokens + config.max_new_tokens / 2
        read = steps * (work.weight_bytes + work.live_rows * (context * work.kv_bytes + 60 * shape.words))
        decoded = work.live_rows * steps
        decode_flops, host = shape.forward_flops(decoded, decoded * context, decoded), steps * shape.layers * _LAUNCH
    prefill = shape.forward_flops(work.sampled * work.prompt, work.sampled * work.prompt**2 / 2, work.sampled)
    states = 30 * work.trained / gpus  # what AdamW reads and writes of weights, moments and gradients
    ring = (gpus - 1) / gpus * work.trained * work.width
    # weights and gradients: once an update; gradients every micro-batch; weights twice, gradients once there too
    moved = {
        1: 2 * work.updates * ring,
        2: (work.micros + work.updates) * ring,
        3: 3 * work.micros * ring,
    }[work.stage]
    return {
        "prefill": prefill / compute,
        "decode": max(read / stream, decode_flops / compute, host),
        "old_logp": forward * (2 if "reference" in memory(work)["update"] else 1) / compute,
        "update": config.epochs * (passes * forward + again + head_again) / compute,
        "optimizer step": work.updates * states / stream,
        "communication": moved / (hardware.link * hardware.streaming) if gpus > 1 else 0.0,
    }


def _assumed(work: Work) -> list[str]:
    hardware = work.hardware
    return [
        f"a GPU reads {hardware.bandwidth / 1e12:g} TB/s, computes {hardware.flops / 1e12:g} TFLOP/s and sends "
        f"{hardware.link / 1e9:g} GB/s; of that it reaches {hardware.streaming:.0%}, of the FLOPs {hardware.mfu:.0%}",
        f"completions of {work.length:g} tokens, the longest {work.config.max_new_tokens}; prompts of {work.prompt:g}",
        f"micro-batches of {work.micro} tokens, all full; layers keep what Qwen2's keep",
        ("samplers and trainer work at the same time" if work.config.sampler_ranks else "nothing overlaps")
        + "; rewards, evaluation, checkpoints and the loading of weights are not counted",
    ]


def _row(name: str, *cells: str) -> str:
    return f"{name:<16}" + "".join(f"{cell:>16}" for cell in cells)


def _gb(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f}" if value < 1e10 else f"{value / 1e9:.1f}"
