"""Check, before training or sampling, that log π of a sequence depends on nothing but the sequence."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from dgpo.errors import ConfigError
from dgpo.model.output_layer import ordinary_tokens, own_code
from dgpo.progress import tell
from dgpo.rollout.base import Sampling
from dgpo.rollout.transformers import TransformersSampler

_ROUNDINGS = 4  # times the effect of one random rounding of every module's output; sound models reach 0.5 in bfloat16
_NEW = 16  # most tokens to sample


def check_model(config, policy, tokenizer, length: int) -> None:
    """Raise ConfigError if log π of a sequence depends on its batch or on the sampler's cache (or warn: self_check).

    config      a Config or EvalConfig; with rollout='vllm' only the trainer is checked
    length      the most tokens of a prompt and its completion in this run

    It takes some forty forward passes over two short sequences: 0.1 s for a small model, about a second for 7 B on a
    GPU. It has its own random state and does not change the policy.
    """
    sampled = config.rollout == "transformers"
    fault = _switch(policy.lm.config, length) or _difference(policy, tokenizer, length, sampled)
    if fault is None:
        return
    said = f"model_type={policy.lm.config.model_type!r}: {fault}"
    if config.self_check == "refuse":
        raise ConfigError(f"{said}; self_check=warn continues anyway")
    tell(f"warning: {said}")


def _switch(shape, length: int) -> str | None:
    """The fault of a rotary embedding that changes for a whole sequence once it passes a certain length."""
    ropes = getattr(shape, "rope_parameters", None) or {}
    for rope in (ropes, *(r for r in ropes.values() if isinstance(r, dict))):  # of the model, or of a kind of layer
        original = rope.get("original_max_position_embeddings")
        if rope.get("rope_type") == "longrope" and original and length > original:
            return (
                f"its rotary embedding (longrope) changes for sequences of more than {original} tokens, and this "
                f"run's have up to {length}: log-probabilities would change with the batch, and the "
                "sampler's cache keeps the old ones"
            )
    return None


@torch.no_grad()
def _difference(policy, tokenizer, length: int, sampled: bool) -> str | None:
    """What log π of two sampled sequences depends on besides the sequence; None if it differs by rounding only.

    The limit is measured on the model: move every module's output by one rounding of its dtype, up, down or not at all,
    and take four times the mean change of log π. Add eight float32 roundings of the largest logit and log π for what
    follows the last module. (Where a token is almost certain, log π is a small difference of large logits and has their
    rounding, not its own.)
    """
    lm, new = policy.lm, max(1, min(_NEW, length // 2))
    tokens = ordinary_tokens(lm, 24).tolist()
    long = tokens[: max(1, min(len(tokens), length - new))]
    short = long[::-1][: max(1, len(long) // 4)]
    sampler, sampling = TransformersSampler(policy, tokenizer, rows=2), Sampling(new, policy.temperature)
    sampler.stop = [len(lm.get_output_embeddings().weight)]  # never sampled: one-token completions would show nothing

    def together(batch) -> Tensor:
        return policy(batch.to(policy.device))[0].cpu()

    def apart(batch) -> Tensor:
        return torch.cat([together(batch.select(torch.tensor([i]))) for i in range(len(batch))])

    with own_code(lm):
        pair = sampler.generate([short, long], [1, 2], sampling)
        one = sampler.generate([long], [2], sampling)
        alone = apart(pair)
        pairs = [("of a sequence in a batch and alone", together(pair), alone)]
        if sampled:
            pairs += [
                ("by the sampler, with its cache, and by the trainer", one.rollout_logp, together(one)),
                ("by the sampler, in a batch with padding, and by the trainer", pair.rollout_logp, alone),
            ]
        with _rounded(lm):
            rounding = _mean_distance(apart(pair), alone)
        logits = lm(input_ids=torch.tensor([long], device=policy.device), use_cache=False).logits / policy.temperature
    largest = float(logits.abs().max()) + float(alone.abs().max())
    limit = _ROUNDINGS * rounding + 8 * torch.finfo(torch.float32).eps * largest
    for what, left, right in pairs:
        if not (off := _mean_distance(left, right)) <= limit:
            return (
                f"log-probabilities {what} differ by {off:.2g} nats on average; rounding explains {limit:.1g} at most"
            )
    return None


def _mean_distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().mean())


@contextmanager
def _rounded(lm) -> Iterator[None]:
    """Move every output of the model's innermost modules by a random unit of its last place: up, down or not."""
    generator = torch.Generator(lm.device).manual_seed(0)

    def move(_module, _inputs, output):
        if not (isinstance(output, Tensor) and output.is_floating_point()):
            return None
        way = torch.randint(-1, 2, output.shape, generator=generator, device=output.device)
        return output + output * (way * torch.finfo(output.dtype).eps).to(output.dtype)

    hooks = [m.register_forward_hook(move) for m in lm.modules() if next(m.children(), None) is None]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
