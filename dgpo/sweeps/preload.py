"""Imported by the process that forks the runs of a sweep, where there is no GPU: they have the trainer at once."""

from dgpo import trainer
from dgpo.engine import load_deepspeed

__all__ = ["trainer"]

load_deepspeed()
