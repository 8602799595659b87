"""Imported by the process that forks the runs of a sweep, unless there is a GPU: runs then start without imports."""

from dgpo import trainer
from dgpo.engine import load_deepspeed

__all__ = ["trainer"]

load_deepspeed()
