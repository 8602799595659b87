"""Tensors from one process to another on the same machine, one at a time, through memory that both have mapped."""

import mmap
import os
import tempfile
from math import prod

import torch
from torch import Tensor


class SharedMemory:
    """Room for one tensor, as large as the largest so far.

    The process that has no `descriptor` yet makes the memory, and gives its `descriptor` to the other one.
    """

    def __init__(self, descriptor: int | None = None):
        self.descriptor = _anonymous_file() if descriptor is None else descriptor
        self._mapped = torch.empty(0, dtype=torch.uint8)

    def put(self, tensor: Tensor) -> dict:
        """Copy a tensor in, from any device. Returns what `get` needs to know of it, in terms of JSON."""
        if tensor.nbytes > os.fstat(self.descriptor).st_size:
            os.truncate(self.descriptor, tensor.nbytes)
        found = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
        self.get(**found).copy_(tensor.detach())
        return found

    def get(self, dtype: str, shape: list[int]) -> Tensor:
        """The tensor that was put in last, not a copy: the next `put` changes it."""
        kind, size = getattr(torch, dtype), os.fstat(self.descriptor).st_size
        if len(self._mapped) < size:
            self._mapped = torch.frombuffer(mmap.mmap(self.descriptor, size), dtype=torch.uint8)
        return self._mapped[: prod(shape) * kind.itemsize].view(kind).view(shape)


def _anonymous_file() -> int:
    """A file without a name, in memory where the system has such: it goes with the processes that hold it open."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dgpo-weights")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
