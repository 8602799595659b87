"""Completions with their log-probabilities: one protocol, several samplers."""

from dgpo.rollout.base import Sampler, Sampling
from dgpo.rollout.transformers import TransformersSampler

SAMPLERS = {"transformers": TransformersSampler}

__all__ = ["SAMPLERS", "Sampler", "Sampling", "TransformersSampler"]
