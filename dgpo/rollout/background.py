"""A sampler in its own process, with its own copy of the weights: it samples while the policy is updated.

    trainer             step k                        │ step k+1
                        rewards │ updates        load │ rewards │ updates        load
    this process                │ samples step k+1 ─┘ │         │ samples step k+2 ─┘

The completions of step k+1 come from the policy before the updates of step k: one step off-policy.

Requests are JSON and completions safetensors, over a socket that only the two processes hold; `transfer.py` has the
ways of weights. A process that fails sends its error, one that dies closes the socket, one that does not answer within
`timeout` seconds is killed: each raises SamplerError. The process ends with the trainer (`lifetimes.py`).
"""

import json
import os
import subprocess
import threading
import time
import traceback
import weakref
from collections.abc import Iterable
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

import torch
from safetensors.torch import load as tensors_of
from safetensors.torch import save as bytes_of
from torch import Tensor

from dgpo import errors, lifetimes
from dgpo.batch import Rollout
from dgpo.config import Config
from dgpo.rollout import transfer
from dgpo.rollout.base import Sampler, SamplerError, Sampling
from dgpo.rollout.shared import SharedMemory

_LONGEST_WAIT = 1e6  # seconds: poll() takes milliseconds in 32 bits
_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class BackgroundSampler(Sampler):
    """The sampler that `config` sets, in another process.

    `begin` starts a request; the `generate` with the same request returns its completions, even if weights were loaded
    in between. Any other `generate` samples with the weights loaded last. `staleness` counts the loads between the
    weights that sampled the last completions and those loaded by the time of their `generate`. It samples on the GPU
    number `device`, without a number on this rank's.
    """

    works_ahead = True

    def __init__(self, config: Config, source: str, pad: int, stop: list[int], length: int, device: int | None = None):
        self.timeout, self.staleness, self.holders = config.timeout, 0, config.sampler_ranks
        self._begun: list[int] | None = None  # the seeds of the request that was begun; no other request has them
        self._ahead: Rollout | None = None  # its completions, once received
        self._loads_since = 0
        self._weights, (self._pipe, theirs) = transfer.choose(config, device), Pipe()
        memory = self._weights.shared.descriptor
        with theirs:
            given = [theirs.fileno(), memory]
            self._process = lifetimes.start(__name__, *map(str, given), pass_fds=given, env=_environment(device))
        self._close = weakref.finalize(self, _end, self._process, self._pipe, memory)
        arguments = {"source": str(source), "pad": pad, "stop": stop, "length": length}
        try:
            self._send({"config": config.model_dump(), "backend": self._weights.backend, **arguments}, "starting")
            self._receive("starting")
            doing = "connecting"
            self._weights.connect(lambda told: self._send(told, doing), lambda: self._receive(doing), self.timeout)
        except BaseException:  # a notebook holds on to the traceback, and so to this object and its process
            self.close()
            raise

    def begin(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> None:
        """Start to sample; returns at once."""
        if self._begun is not None:
            raise RuntimeError("a request was begun already")
        self._send({"prompts": prompts, "seeds": seeds, "sampling": asdict(sampling)}, "sampling")
        self._begun, self._loads_since = seeds, 0

    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> Rollout:
        ahead = self.ahead()  # its answer comes first
        if ahead is not None and self._begun == seeds:
            self.staleness = self._loads_since
            self._begun = self._ahead = None
            return ahead
        self._send({"prompts": prompts, "seeds": seeds, "sampling": asdict(sampling)}, "sampling")
        self.staleness = 0
        return Rollout(**tensors_of(self._receive("sampling")))

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        self.ahead()
        self._send({"load": True}, "loading weights")
        for name, tensor in weights:
            self._send(self._weights.describe(name, tensor), "loading weights")
            try:
                self._weights.hand_over(tensor)
            except RuntimeError:
                self._receive("loading weights")  # raises the reason
                raise
            self._receive("loading weights")  # it has taken this one: the memory is free for the next
        self._send({}, "loading weights")
        self._receive("loading weights")
        self._loads_since += 1

    def ahead(self) -> Rollout | None:
        """Wait for the completions of the request that was begun; None if there is none."""
        if self._begun is not None and self._ahead is None:
            self._ahead = Rollout(**tensors_of(self._receive("sampling")))
        return self._ahead

    def restore(self, batch: Rollout, seeds: list[int]) -> None:
        """Restore a request that was begun, and answered, before the last load of weights."""
        self._begun, self._ahead, self._loads_since = seeds, batch, 1

    def close(self) -> None:
        self._close()
        self._weights.close()

    def _send(self, message: dict, doing: str) -> None:
        self._send_bytes(json.dumps(message).encode(), doing)

    def _send_bytes(self, message: bytes, doing: str) -> None:
        late = threading.Timer(self.timeout, self._process.kill)  # a process that does not read would block us for ever
        late.start()
        try:
            self._pipe.send_bytes(message)
        except (BrokenPipeError, ConnectionResetError):
            if late.finished.is_set():
                raise SamplerError(
                    f"the sampler's process {self._process.pid} did not read within timeout={self.timeout:g} s while "
                    f"{doing}"
                ) from None
            self._receive(doing)  # raises the reason
            raise
        finally:
            late.cancel()

    def _answers(self) -> bool:
        """Whether an answer comes within `timeout` seconds, which one poll may be too short for."""
        end = time.monotonic() + self.timeout
        while not (there := self._pipe.poll(min(self.timeout, _LONGEST_WAIT))) and time.monotonic() < end:
            pass
        return there

    def _receive(self, doing: str) -> bytes:
        """The answer. A first byte of `!` marks an error's text."""
        who = f"the sampler's process {self._process.pid}"
        try:
            if not self._answers():
                self.close()
                raise SamplerError(f"{who} did not answer within timeout={self.timeout:g} s while {doing}")
            answer = self._pipe.recv_bytes()
        except (EOFError, ConnectionResetError):
            code = self._process.wait()
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            raise SamplerError(f"{who} ended {how} while {doing}") from None
        if answer[:1] == b"!":
            raise SamplerError(f"{who} failed while {doing}:{answer[1:].decode()}")
        return answer[1:]


def _environment(device: int | None) -> dict[str, str]:
    """This process's environment without the launcher's variables, and with the sampler's GPU as the only one."""
    env = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
    if torch.cuda.is_available():
        visible = env.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[torch.cuda.current_device() if device is None else device]
    return env


def _end(process: subprocess.Popen, pipe: Connection, descriptor: int) -> None:
    pipe.close()
    os.close(descriptor)
    lifetimes.end(process)


def _serve(pipe: Connection, memory: SharedMemory) -> None:
    """The loop of the other process: make the sampler, then answer requests until the socket is closed."""
    start = json.loads(pipe.recv_bytes())
    backend, sampler = start["backend"], _make(Config.model_validate(start.pop("config")), **start)
    pipe.send_bytes(b".")
    while True:
        try:
            message = json.loads(pipe.recv_bytes())
        except EOFError:
            return
        if "connect" in message:
            sampler.connect(message["connect"])
            pipe.send_bytes(b".")
        elif "load" in message:
            sampler.receive(_described(pipe)) if backend else sampler.load(_weights(pipe, memory))
            pipe.send_bytes(b".")
        else:
            batch = sampler.generate(message["prompts"], message["seeds"], Sampling(**message["sampling"]))
            pipe.send_bytes(b"." + bytes_of(batch.tensors()))


def _weights(pipe: Connection, memory: SharedMemory):
    """(name, tensor) of each weight; a tensor is valid until the next one is drawn."""
    return ((described.pop("name"), memory.get(**described)) for described in _described(pipe))


def _described(pipe: Connection):
    """The message of each weight; whoever draws the next one has taken the weight."""
    while described := json.loads(pipe.recv_bytes()):
        yield described
        pipe.send_bytes(b".")


def _make(config: Config, source: str, pad: int, stop: list[int], length: int, backend: str | None) -> Any:
    if config.rollout == "vllm":
        from dgpo.rollout.vllm import VLLMSampler

        awake = config.vllm.model_copy(update={"sleep": False})  # the trainer never lets it sleep
        return VLLMSampler(config.model_copy(update={"vllm": awake}), source, pad, stop, length, backend)
    from dgpo.model import tiny
    from dgpo.model.policy import Policy
    from dgpo.rollout.transformers import TransformersSampler

    lm, tokenizer, _ = tiny.load_policy(config)
    return TransformersSampler(
        Policy(lm, config.temperature, head_dtype=config.head_dtype), tokenizer, config.generation_batch_size
    )


def main(socket: str, memory: str) -> int:
    pipe = Connection(int(socket))
    try:
        _serve(pipe, SharedMemory(int(memory)))
    except (BrokenPipeError, ConnectionResetError):  # the trainer is gone
        return 1
    except Exception as error:  # noqa: BLE001 (raised again, over there)
        explained = None if os.environ.get("DGPO_TRACEBACK") else errors.explain(error)
        pipe.send_bytes(b"!" + (f" {explained[0]}" if explained else f"\n{traceback.format_exc()}").encode())
        return 1
    return 0
