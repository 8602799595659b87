"""Completions with their log-probabilities: one base class, several samplers."""

from dgpo.rollout.base import Sampler, SamplerError, Sampling
from dgpo.rollout.transformers import TransformersSampler, stop_tokens


def check(config) -> None:
    """Raise ConfigError where the sampler that a Config or EvalConfig asks for cannot run: before any model is read."""
    if config.rollout == "vllm":
        from dgpo.rollout import vllm

        vllm.require(config)


def make(config, policy, tokenizer, source, length: int) -> Sampler:
    """The sampler that a Config or EvalConfig asks for, after the engine was made.

    `source` is the checkpoint that the policy was read from, `length` the most tokens of a prompt and its completion.
    """
    own = (config, source, tokenizer.pad_token_id, stop_tokens(policy.lm, tokenizer), length)
    if getattr(config, "sampler_ranks", 0):
        from dgpo.rollout import owners

        return owners.make(*own)
    if getattr(config, "asynchronous", False):
        from dgpo.rollout.background import BackgroundSampler

        return BackgroundSampler(*own)
    if config.rollout == "vllm":
        from dgpo.rollout.vllm import VLLMSampler

        return VLLMSampler(*own)
    return TransformersSampler(policy, tokenizer, config.generation_batch_size)


__all__ = ["Sampler", "SamplerError", "Sampling", "TransformersSampler", "check", "make"]
