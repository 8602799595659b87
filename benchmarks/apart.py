"""A sampler in a process of its own, on CPUs: python -m benchmarks.apart weights|steps [rounds]

    weights   GB/s of all tensors of R1-Distill-Qwen-1.5B in bfloat16, one by one, from a process into tensors of
              another: through shared memory as the trainer sends them, and by gloo's broadcast over the loopback
    steps     seconds of a step of the policy `20M` (benchmarks.workload), sampled in turn or during the updates: on the
              clock, and of each process's CPU, the larger of which the clock shows where every process has a core

Both alternate what they compare within one run, so that what slows the machine down slows both.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import torch
from transformers import AutoModelForCausalLM

from benchmarks import workload
from dgpo import lifetimes, shapes
from dgpo.distributed import process_group
from dgpo.rollout import transfer
from dgpo.rollout.shared import SharedMemory

NAME = "DeepSeek-R1-Distill-Qwen-1.5B"


def tensors() -> dict[str, torch.Tensor]:
    """The parameters of the model by name, all ones: every page is really there."""
    with torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(shapes.known(NAME))
    return {name: torch.ones(p.shape, dtype=torch.bfloat16) for name, p in lm.named_parameters()}


def weights(rounds: int = 3) -> None:
    """Print the rates of both ways."""
    memory, (pipe, theirs), port = transfer.Memory(), Pipe(), transfer._free_port()
    given = [theirs.fileno(), memory.shared.descriptor]
    process = lifetimes.start("benchmarks.apart", "receive", *map(str, given), str(port), pass_fds=given)
    try:
        group, own = _gloo(port, 0), tensors()
        size = sum(tensor.nbytes for tensor in own.values())
        assert pipe.recv() == "ready"

        def send(way: str) -> float:
            start = time.perf_counter()
            for name, tensor in own.items():
                told = memory.describe(name, tensor) if way == "shared memory" else {"name": name}
                pipe.send_bytes(json.dumps({"way": way, **told}).encode())
                if way == "gloo":
                    group.broadcast(tensor, 0).wait()
                pipe.recv_bytes()
            return size / 1e9 / (time.perf_counter() - start)

        rates = [{way: send(way) for way in ("shared memory", "gloo")} for _ in range(rounds + 1)][1:]
        print(
            f"load {os.getloadavg()[0]:.1f}; {size / 1e9:.2f} GB in {len(own)} tensors, {rounds} rounds after one more"
        )
        for way in rates[0]:
            found = sorted(rate[way] for rate in rates)
            print(f"| {way} | {statistics.median(found):.2f} GB/s | {found[0]:.2f} to {found[-1]:.2f} |")
    finally:
        lifetimes.end(process)


def receive(socket: str, descriptor: str, port: str) -> None:
    """The other process of `weights`."""
    torch.set_num_threads(1)
    pipe, memory = Connection(int(socket)), SharedMemory(int(descriptor))
    group, own = _gloo(int(port), 1), tensors()
    pipe.send("ready")
    while True:
        told = json.loads(pipe.recv_bytes())
        way, name = told.pop("way"), told.pop("name")
        if way == "gloo":
            group.broadcast(own[name], 0).wait()
        else:
            own[name].copy_(memory.get(**told))
        pipe.send_bytes(b".")


def _gloo(port: int, rank: int):
    import torch.distributed as dist

    store = dist.TCPStore(transfer._HERE, port, 2, is_master=rank == 0)
    return dist.ProcessGroupGloo(store, rank, 2)  # pyright: ignore[reportAttributeAccessIssue]


def steps(rounds: int = 5) -> None:
    """Print the seconds of a step by both kinds of runs, and their ratio."""
    with tempfile.TemporaryDirectory() as folder:
        kinds = {}
        for name, asynchronous in (("in turn", False), ("apart", True)):
            model = Path(folder) / name.replace(" ", "_")
            model.mkdir()
            workload.make_model(model, "20M")
            kinds[name] = workload.dgpo_step(model, asynchronous=asynchronous)
        taken = []
        for _ in range(rounds + 1):
            row = {}
            for name, step in kinds.items():
                before = _spent()
                step()
                row[name] = [now - then for now, then in zip(_spent(), before, strict=True)]
            taken.append(row)
        print(f"load {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores, {rounds} rounds after one more")
        for name in kinds:
            wall, trainer, sampler = (
                statistics.median(column) for column in zip(*(r[name] for r in taken[1:]), strict=True)
            )
            print(f"| {name} | {wall:.2f} s | trainer {trainer:.2f} CPU s, sampler {sampler:.2f} CPU s |")
        for what, of in (("wall", lambda t: t[0]), ("the busier process's CPU", lambda t: max(t[1:]))):
            ratios = sorted(of(row["apart"]) / of(row["in turn"]) for row in taken[1:])
            print(f"| ratio, {what} | {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}) |")


def _spent() -> tuple[float, float, float]:
    """Seconds: on the clock, of this process's CPU, and of its children's."""
    below = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return time.perf_counter(), time.process_time(), sum(cpu.user + cpu.system for cpu in below)


def main(part: str, *arguments: str) -> None:
    if part == "receive":
        return receive(*arguments)
    torch.set_num_threads(1)
    process_group.init("cpu", 3600)
    {"weights": weights, "steps": steps}[part](*map(int, arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
