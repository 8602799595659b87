"""What to change in a run's settings, by `plan`: so that it fits, or so that samplers get GPUs of their own."""

from collections.abc import Iterator
from itertools import combinations
from typing import Any

from dgpo import cards, plan, shapes
from dgpo.config import Config, ConfigError
from dgpo.config_rules import validate

_SHARE = "vllm.gpu_memory"
_MOST = 4  # changes together
_SHOWN = 3  # combinations


def advice(config: Config, ranks: int, hardware: cards.Hardware, there: float) -> str:
    """The shortest combinations of changes that make the run fit into `there` bytes of a GPU."""
    shape, changes = shapes.shape_of(config), _changes(config)

    def fits(settings: dict[str, Any]) -> bool:
        try:
            changed = validate(changed_to(config, settings))
            work = plan.Work(changed, shape, ranks, config.max_new_tokens / 2, hardware)
        except ConfigError:  # they do not go together, or vLLM's share does not hold the weights
            return False
        return max(sum(parts.values()) for parts in plan.memory(work).values()) + plan.CONTEXT <= there

    def made(chosen: tuple[tuple[str, Any], ...]) -> str | None:
        """Settings that fit, as words of the command line; of vLLM's share, the largest."""
        settings = dict(chosen)
        if len(settings) < len(chosen):
            return None
        for share in _shares(config) if _SHARE in settings else [None]:
            settings |= {_SHARE: share} if share else {}
            if fits(settings):
                return _words(settings)
        return None

    for size in range(1, min(_MOST, len(changes)) + 1):
        if ways := [words for words in map(made, combinations(changes, size)) if words]:
            return f"{' or '.join(ways if size == 1 else ways[:_SHOWN])} fits"
    return "no combination of settings makes it fit: use more ranks, or larger GPUs"


def apart(config: Config, known: plan.Plan) -> str:
    """A line on samplers with GPUs of their own, if by `plan` the planned run has shorter steps so; else nothing."""
    own: dict[str, Any] = {"asynchronous": True, "importance_correction": "none", _SHARE: 0.9}
    own |= {"vllm.tensor_parallel": 1} | ({"offload": "none"} if config.offload == "rollout" else {})
    best, words = known.step, None
    for samplers in range(1, known.gpus // 2 + 1) if config.rollout == "vllm" and not known.samplers else ():
        settings = {"sampler_ranks": samplers, **own}
        try:
            found = plan.predict(validate(changed_to(config, settings)), known.gpus, known.hardware, known.length)
        except ConfigError:
            continue
        if found.fits and found.step < best:
            differ = {name: value for name, value in settings.items() if value != _value(config, name)}
            best, words = found.step, _words({"ranks": known.gpus - samplers, **differ})
    if words is None:
        return ""
    return f"samplers on GPUs of their own, one step off-policy: {best:.3g} s a step (unchecked by a GPU): {words}"


def changed_to(config: Config, settings: dict[str, Any]) -> Config:
    """The config with other settings, by dotted names; not validated."""
    update: dict[str, Any] = {}
    for name, value in settings.items():
        outer, _, inner = name.partition(".")
        whole = update.get(outer, getattr(config, outer))
        update[outer] = whole.model_copy(update={inner: value}) if inner else value
    return config.model_copy(update=update)


def _changes(config: Config) -> list[tuple[str, Any]]:
    """Settings that need less memory than those of `config`, the cheapest first."""
    longest = config.max_prompt_tokens + config.max_new_tokens
    changes: list[tuple[str, Any]] = []
    if config.rollout == "vllm":
        changes.append((_SHARE, None))
    if config.offload == "none":
        changes += [("offload", "rollout")] if config.rollout == "vllm" and config.vllm.sleep else []
    if not config.offload.startswith("optimizer"):
        changes.append(("offload", "optimizer"))
    if not config.gradient_checkpointing:
        changes.append(("gradient_checkpointing", True))
    if (config.max_tokens_per_micro_batch or config.micro_batch_size * longest) > longest:
        changes.append(("max_tokens_per_micro_batch", longest))
    if config.zero_stage < 3 and not config.lora.r:
        changes.append(("zero_stage", 3))
    if config.offload != "optimizer+params":
        changes.append(("offload", "optimizer+params"))
    if config.asynchronous:
        changes.append(("asynchronous", False))
    if config.rollout == "transformers" and config.generation_batch_size > 16:
        changes.append(("generation_batch_size", 16))
    if not config.lora.r:
        changes.append(("lora.r", 32))
        changes += [("zero_stage", 2)] if config.zero_stage == 3 else []
    return changes


def _shares(config: Config) -> Iterator[float]:
    """vLLM's shares of a GPU below the config's, the largest first."""
    return (percent / 100 for percent in range(round(config.vllm.share * 100) - 1, 4, -1))


def _value(config: Config, name: str) -> Any:
    outer, _, inner = name.partition(".")
    return getattr(getattr(config, outer), inner) if inner else getattr(config, outer)


def _words(settings: dict[str, Any]) -> str:
    """Settings as words of the command line."""
    return " ".join(f"{name}={f'{v:g}' if isinstance(v, float) else str(v).lower()}" for name, v in settings.items())
