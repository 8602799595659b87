"""The part of `benchmarks.gpu` about memory that sleeps: vLLM's allocator alone, beside real updates.

The allocator is the extension module `cumem_allocator` of vLLM's wheel, 27 kB: from an installed vLLM, or from the
folder that `make gpu-wheels` fills. It needs the CUDA driver and nothing else of vLLM.
"""

import importlib.util
import os
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts import batch_of, build, make_engine, settings
from benchmarks.gpu_table import WHEELS, apart, row, seconds

NAME = "cumem_allocator.abi3.so"
SHARES = {"weights": 0.05, "KV cache": 0.6}  # of the GPU


def allocator(is_tiny: bool) -> None:
    """Sleep and wake around updates of several shapes, with torch's segments as they are and with those that grow."""
    for grows in (False, True):
        beside_updates(is_tiny, grows) if is_tiny else apart(beside_updates, is_tiny, grows)


def beside_updates(is_tiny: bool, grows: bool) -> None:
    if grows and not is_tiny:
        os.environ["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"  # before the first allocation
    part = f"sleeping memory, segments {'grow' if grows else 'are fixed'}"
    pool = PlainPool() if is_tiny else find()
    if pool is None:
        row(part, "seconds", f"no {NAME} here: make gpu-wheels")
        return
    total = 1e6 if is_tiny else torch.cuda.mem_get_info()[1]
    longest = 192 if is_tiny else 18_432
    config = settings(is_tiny, max_tokens_per_micro_batch=longest, gradient_checkpointing=True, zero_stage=2)
    policy = build(config)
    batch = batch_of(config, policy.lm.config.vocab_size)
    engine = make_engine(policy, config)
    with switched_off(grows and not is_tiny):
        held = [pool.allocate(int(share * total)) for share in SHARES.values()]
    woken = 0
    for rows in (16, 3, 9, 5, 12):  # sequences: other shapes at every update
        row(part, "seconds to sleep", seconds(pool.sleep, 1, warm=0))
        few = batch.select(torch.arange(min(rows, len(batch))))
        engine.update(few, lambda micro: engine(micro.to(config.device))[0].sum())
        if not is_tiny:
            torch.cuda.empty_cache()
            row(part, f"GB reserved by torch after {rows} sequences", torch.cuda.memory_reserved() / 1e9)
        try:
            row(part, "seconds to wake", seconds(pool.wake, 1, warm=0))
        except RuntimeError as error:
            row(part, "wake", f"{type(error).__name__}: {error}")
            break
        woken += 1
    row(part, "wakes of 5", float(woken))
    if woken:
        for memory in held:  # mapped again, and to be written
            memory[:: max(1, len(memory) // 1000)] = 1


class switched_off:
    """Fixed segments inside, as vLLM has them in its pool, which cannot be of segments that grow."""

    def __init__(self, matters: bool):
        self.matters = matters

    def __enter__(self):
        self._set(False)

    def __exit__(self, *_):
        self._set(True)

    def _set(self, grows: bool) -> None:
        if self.matters:
            change = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
            (change or torch.cuda.memory._set_allocator_settings)(f"expandable_segments:{grows}")


class PlainPool:
    """On a CPU: memory that stays. `sleep` and `wake` must take turns."""

    def __init__(self):
        self.asleep = False

    def allocate(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8)

    def sleep(self) -> None:
        assert not self.asleep
        self.asleep = True

    def wake(self) -> None:
        assert self.asleep
        self.asleep = False


class SleepingPool(PlainPool):
    """vLLM's: allocations whose pages are given back and mapped again at the same addresses (cumem.py, 0.27 to 0.33).

    extension    the module; it calls back with a handle (device, size, address, pages) for every allocation
    """

    def __init__(self, extension: Any, path: Path):
        super().__init__()
        self.extension, self.handles = extension, {}
        self.callbacks = self._made, self._freed  # the extension borrows them: bound methods of a moment would be freed
        extension.init_module(*self.callbacks)
        self.allocator = torch.cuda.memory.CUDAPluggableAllocator(str(path), "my_malloc", "my_free")
        self.pool = torch.cuda.memory.MemPool(self.allocator._allocator)

    def allocate(self, size: int) -> torch.Tensor:
        with torch.cuda.memory.use_mem_pool(self.pool):
            return torch.empty(size, dtype=torch.uint8, device="cuda")

    def sleep(self) -> None:
        super().sleep()
        torch.cuda.synchronize()
        for handle in self.handles.values():
            self.extension.python_unmap_and_release(*handle)

    def wake(self) -> None:
        super().wake()
        for handle in self.handles.values():
            self.extension.python_create_and_map(*handle)

    def _made(self, handle: tuple) -> None:
        self.handles[handle[2]] = handle

    def _freed(self, address: int) -> tuple:
        return self.handles.pop(address)


def find() -> SleepingPool | None:
    """The pool of an installed vLLM's extension, or of the one in the wheels' folder."""
    vllm = importlib.util.find_spec("vllm")
    places = [Path(place) / NAME for place in (vllm.submodule_search_locations or [] if vllm else [])]
    for path in [*places, WHEELS / NAME]:
        if path.exists():
            loader = ExtensionFileLoader("cumem_allocator", str(path))
            spec = importlib.util.spec_from_file_location("cumem_allocator", path, loader=loader)
            if spec is None:
                continue
            module = importlib.util.module_from_spec(spec)
            loader.exec_module(module)
            return SleepingPool(module, path)
    return None
