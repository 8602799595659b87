"""Completions with their log-probabilities: one protocol, several samplers."""

from dgpo.rollout.base import Sampler, Sampling
from dgpo.rollout.transformers import TransformersSampler


def make(config, policy, tokenizer, source) -> Sampler:
    """The sampler that a Config or EvalConfig asks for; `source` is the checkpoint that the policy was read from."""
    return TransformersSampler(policy, tokenizer, config.rollout_rows)


__all__ = ["Sampler", "Sampling", "TransformersSampler", "make"]
