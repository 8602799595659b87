"""New weights for a sampler in another process: each tensor is described in a message, then handed over.

    Memory   through memory that both processes have mapped: on a CPU, and for rollout='transformers'
    Nccl     vLLM's engine has a GPU of its own, to which the tensor is broadcast
    Ipc      it shares the trainer's GPU, where it copies the tensor out of a buffer that it has mapped

The receiving halves of the last two are vLLM's weight transfer engines `nccl` and `ipc`. Their requests are the same
from vLLM 0.27 to 0.33. The sending halves in vLLM are not, and ask for all shapes before the first tensor; one request
a tensor needs neither, and under ZeRO-3 no more than one is whole. A receiver that dies closes its socket, on which the
trainer waits after every tensor: it never waits for the GPU.
"""

import base64
import importlib
import os
import pickle
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotYet
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import reductions

from dgpo.config import Config
from dgpo.rollout.base import SamplerError
from dgpo.rollout.shared import SharedMemory

_HERE = "127.0.0.1"  # a sampler runs on its trainer's host
_TRAINER = "vllm.distributed.weight_transfer.nccl_common"
_PORTS = 5  # tried in turn
_BINDING = 1.0  # seconds after which a port that was not refused is taken to be ours


class Memory:
    """The sending end; `SharedMemory` is the receiving one too."""

    backend: str | None = None  # vLLM's name of the engine that receives

    def __init__(self):
        self.shared = SharedMemory()

    def connect(self, begin: Callable[[dict], None], end: Callable[[], object], timeout: float) -> None:
        """Meet the receiver: `begin` sends it a message, `end` waits for its answer."""

    def describe(self, name: str, tensor: Tensor) -> dict:
        """The message that announces a tensor; what it tells of can be read by then."""
        return {"name": name} | self.shared.put(tensor)

    def hand_over(self, tensor: Tensor) -> None:
        """Do what only works while the receiver, which has the message, takes part."""

    def close(self) -> None:
        """Let a transfer that was begun end."""


class Nccl(Memory):
    """The trainer is rank 0 of a communicator of two, the sampler rank 1."""

    backend = "nccl"

    def __init__(self):
        super().__init__()
        self.group: Any = None

    def connect(self, begin: Callable[[dict], None], end: Callable[[], object], timeout: float) -> None:
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        importlib.import_module(_TRAINER)  # takes seconds, and the thread is to be at its port at once
        for _ in range(_PORTS):
            port = _free_port()
            opened = _in_a_thread(self._open, port)
            try:
                opened.result(_BINDING)
            except NotYet:  # it waits there for the sampler
                break
            except (OSError, dist.DistNetworkError):  # somebody else took the port meanwhile
                continue
        else:
            raise SamplerError(f"no port on {_HERE} for the weights of the sampler: {_PORTS} were taken")
        begin({"connect": {"master_address": _HERE, "master_port": port, "rank_offset": 1, "world_size": 2}})
        end()
        try:
            self.group = opened.result(timeout)
        except NotYet:
            raise SamplerError(f"no connection for the weights of the sampler within timeout={timeout:g} s") from None

    def describe(self, name: str, tensor: Tensor) -> dict:
        return _described(name, tensor)

    def hand_over(self, tensor: Tensor) -> None:
        self.group.broadcast(tensor.detach().contiguous(), src=0, stream=torch.cuda.current_stream())

    def close(self) -> None:
        if hasattr(self.group, "destroy"):  # it aborts, else a broadcast to a dead process blocks the device
            self.group.destroy()

    def _open(self, port: int) -> Any:
        told = {"master_address": _HERE, "master_port": port, "world_size": 2}
        return importlib.import_module(_TRAINER).trainer_init(told)


class Ipc(Memory):
    """A buffer on the GPU as large as the largest tensor so far, which vLLM calls packed.

    It is exported once and kept: each export of a storage wraps the one before, and vLLM 0.27 releases a mapping more
    often than it was exported, which torch answers by never freeing it.
    """

    backend = "ipc"

    def __init__(self):
        super().__init__()
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._shown = ""  # the buffer's handle, pickled

    def connect(self, begin: Callable[[dict], None], end: Callable[[], object], timeout: float) -> None:
        begin({"connect": {"packed": True}})
        end()

    def describe(self, name: str, tensor: Tensor) -> dict:
        flat = tensor.detach().contiguous().view(-1).view(torch.uint8)
        if len(flat) > len(self._buffer):
            self._buffer = torch.empty(len(flat), dtype=torch.uint8, device=tensor.device)
            self._shown = self._export()
        self._buffer[: len(flat)].copy_(flat)
        torch.cuda.current_stream().synchronize()  # the sampler reads on a stream of its own
        return _described(name, tensor) | {"tensor_sizes": [len(flat)], "ipc_handles_pickled": self._shown}

    def _export(self) -> str:
        card = str(torch.cuda.get_device_properties(self._buffer.device).uuid)
        return base64.b64encode(pickle.dumps({card: reductions.reduce_tensor(self._buffer)[1]})).decode()


def choose(config: Config, device: int | None) -> Memory:
    """How weights reach the sampler of a config, whose own GPU is `device`, or which has none."""
    if config.rollout != "vllm" or not torch.cuda.is_available():
        return Memory()
    return Ipc() if device is None else Nccl()


def _described(name: str, tensor: Tensor) -> dict:
    kind = str(tensor.dtype).removeprefix("torch.")
    return {"names": [name], "dtype_names": [kind], "shapes": [list(tensor.shape)]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_HERE, 0))
        return probe.getsockname()[1]


def _in_a_thread(function: Callable, *arguments) -> Future:
    """The future result of a call that may never return; the thread keeps no program from ending."""
    future, device = Future(), torch.cuda.current_device() if torch.cuda.is_available() else None

    def run() -> None:
        try:
            if device is not None:
                torch.cuda.set_device(device)
            future.set_result(function(*arguments))
        except BaseException as error:  # noqa: BLE001 (raised again where the result is asked for)
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
