"""The methods: `get(key or "module:Class", **params)`, `names()`, `@register(key)`, and their base `Method`."""

from dgpo.methods import clipping, neighbours, probability, sequences, surroundings
from dgpo.methods.base import (
    DEFAULT_EPS,
    REGIONS,
    Method,
    Region,
    TrustRegion,
    get,
    get_class,
    names,
    regions,
    register,
    sequence_mean,
)
from dgpo.methods.parameters import choice, param

PAPER = ("grpo", "cispo", "gppo", "ce_gppo", "aspo", "dgpo")

__all__ = [
    "DEFAULT_EPS",
    "PAPER",
    "REGIONS",
    "Method",
    "Region",
    "TrustRegion",
    "choice",
    "clipping",
    "get",
    "get_class",
    "names",
    "neighbours",
    "param",
    "probability",
    "regions",
    "register",
    "sequence_mean",
    "sequences",
    "surroundings",
]
