"""The ranks of a run: this process's number, collectives, and the place of a rank when it fails.

A launcher (torchrun, deepspeed) starts one process for each device and identifies it by RANK, LOCAL_RANK and
WORLD_SIZE. Without a launcher the world is one process, and everything here is the identity.

Every collective ends within the time-out given to `init`. The error of one that fails names the rank and its place:

    with error_scope("step 3"), error_scope("update"):
        sequences = all_reduce_sum(sequences)         # RanksError: rank 1 of 2 on node7, in step 3, update: ...
"""

import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from dgpo import lifetimes
from dgpo.config import Config, ConfigError
from dgpo.distributed import launcher
from dgpo.errors import Explained, mark_common

T = TypeVar("T")

_places: list[str] = []
_failing = False  # whether an error is on its way out of the places
_host_group: dist.ProcessGroup | None = None  # for numbers and objects in host memory; None is the default group


class RanksError(Explained, RuntimeError):
    """The ranks did not meet: another one died, failed, or is elsewhere."""


class CommonError(Explained, RuntimeError):
    """An error that every rank raises with the same message, since it comes from numbers that all of them hold."""

    is_common = True


def destroy() -> None:
    """Leave the process group: the last call of a program that trains under a launcher.

    Without it gloo aborts about every second process that ends a moment after its peer.
    """
    if dist.is_initialized() and world_size() > 1:
        dist.destroy_process_group()


def _alone() -> dict[str, Any]:
    """Arguments that make a world of one process, which needs no port."""
    return {"store": dist.HashStore(), "rank": 0, "world_size": 1}  # pyright: ignore[reportPrivateImportUsage]


def check_settings(config: Config) -> None:
    """Raise ConfigError unless there are as many ranks as `config` sets, all started with the same settings."""
    on_rank0(_compare, all_gather_object((config, socket.gethostname())))


def _compare(told: list[tuple[Config, str]]) -> None:
    hosts = ", ".join(f"{n} on {host}" for host, n in Counter(host for _, host in told).items())
    first_of_all = told[0][0].model_dump()
    for other, (config, host) in enumerate(told):
        differ = [f"{k}: {first_of_all[k]!r} and {v!r}" for k, v in config.model_dump().items() if v != first_of_all[k]]
        if differ:
            raise ConfigError(f"ranks 0 and {other} (on {host}) were started with other settings: {'; '.join(differ)}")
    config, count = told[0][0], len(told)
    if config.ranks and config.ranks != count:
        raise ConfigError(
            f"ranks={config.ranks}, but {count} were started ({hosts}): check the launcher's number or its hostfile; "
            "`python -m dgpo launch` starts them itself"
        )
    check_size(config, count, f" ({hosts})")


def check_size(config: Config, count: int, hosts: str = "") -> None:
    """Raise ConfigError where a step or an evaluation has less than one item for each of `count` ranks.

    So where there are more samplers than ranks.
    """
    if config.sampler_ranks > count:
        raise ConfigError(
            f"sampler_ranks={config.sampler_ranks} must be at most the number of ranks, {count}{hosts}: a rank owns "
            "one sampler at most"
        )
    for name, items in (
        ("prompts_per_step", config.prompts_per_step),
        ("eval_problems × eval_samples", config.eval_problems * config.eval_samples),
    ):
        if items < count:
            raise ConfigError(f"{name}={items} must be at least the number of ranks, {count}{hosts}")


def rank() -> int:
    """This process's number, 0 in a world of one; before `init`, the launcher's."""
    return dist.get_rank() if dist.is_initialized() else launcher.rank()


def world_size() -> int:
    """The number of ranks; before `init`, the launcher's."""
    return dist.get_world_size() if dist.is_initialized() else launcher.size()


def init(device: str, timeout: float) -> None:
    """Join the launcher's other ranks within `timeout` seconds, and take this rank's device ("cpu" or "cuda").

    Without a launcher it makes a world of one that needs no port. Joining twice is fine. Raises ConfigError when the
    host has fewer devices than ranks, RanksError when the number of ranks is not the launcher's.
    """
    global _host_group
    launcher.check()
    if launcher.is_parent():  # a killed launcher notifies nobody: ranks would wait for each other until the time-out
        lifetimes.end_with(os.getppid())
    local = int(os.environ.setdefault("LOCAL_RANK", "0"))
    if device == "cuda":
        if local >= (devices := torch.cuda.device_count()):
            raise ConfigError(f"{_me()} is number {local} on a host with {devices} CUDA devices: too many ranks")
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        alone = {} if launcher.started() else _alone()
        limit = timedelta(seconds=timeout)
        # for groups that a library makes without a time-out, as DeepSpeed does for its own collectives
        defaults = dist.distributed_c10d
        defaults.default_pg_timeout = limit
        defaults.default_pg_nccl_timeout = limit  # pyright: ignore[reportPrivateImportUsage]
        with _collective("the start"), _network(alone):
            dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=limit, **alone)
            if device == "cuda" and world_size() > 1:
                _host_group = cast(dist.ProcessGroup, dist.new_group(backend="gloo", timeout=limit))
        if world_size() > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _told_to_stop)  # how a launcher ends the others when a rank has died
    if world_size() != (expected := launcher.size()):
        raise RanksError(f"the process group has {world_size()} ranks, the launcher started {expected}")


@contextmanager
def error_scope(name: str) -> Iterator[None]:
    """Name what this rank is doing. An error that leaves the scope carries a note with the rank and its place."""
    global _failing
    _failing = _failing and bool(_places)
    _places.append(name)
    try:
        yield
    except BaseException as error:
        _failing = True
        noted = isinstance(error, RanksError) or any(n.startswith("rank ") for n in getattr(error, "__notes__", ()))
        if world_size() > 1 and not noted:
            error.add_note(f"{_me()}, in {current_scope()}")
        raise
    finally:
        _places.pop()


def current_scope() -> str:
    """The scopes that this rank is in, outermost first."""
    return ", ".join(_places) or "no named place"


def all_reduce_sum(x: Tensor) -> Tensor:
    """The sum over ranks, on every rank."""
    return _reduce(x, dist.ReduceOp.SUM)


def all_reduce_max(x: Tensor) -> Tensor:
    """The maximum over ranks, element by element, on every rank."""
    return _reduce(x, dist.ReduceOp.MAX)


def all_gather_object(x: T) -> list[T]:
    """Every rank's `x`, in the order of ranks, on every rank; `x` may be any object."""
    if world_size() == 1:
        return [x]
    out: list[T] = [x] * world_size()
    with _collective("a gather"):
        dist.all_gather_object(out, x, group=_host_group)
    return out


def on_rank0(function: Callable[..., T], *args) -> T:
    """The result of `function` on rank 0, returned on every rank; its exception is raised on every rank."""
    if world_size() == 1:
        return function(*args)
    outcome: list[tuple[T, Exception | None]] = [(cast(T, None), None)]
    if rank() == 0:
        try:
            outcome = [(function(*args), None)]
        except Exception as error:  # noqa: BLE001 (raised below, on every rank)
            outcome = [(cast(T, None), error)]
    with _collective("a broadcast"):
        dist.broadcast_object_list(outcome, src=0, group=_host_group)
    value, error = outcome[0]
    if error is not None:
        mark_common(error)
        raise error
    return value


def on_all_ranks(function: Callable[..., T], *args) -> T:
    """The result of `function` on this rank; if it raises on any rank, every rank raises once all have called it.

    An error that all of them raise alike is marked as common, so that only one prints it.
    """
    value, error = cast(T, None), None
    try:
        value = function(*args)
    except Exception as caught:  # noqa: BLE001 (raised below, when every rank knows)
        error = caught
    outcomes = all_gather_object(error and f"{type(error).__name__}: {error}")
    if error is not None:
        mark_common(error, len({*outcomes}) == 1)
        raise error
    if failed := [f"rank {i}: {what}" for i, what in enumerate(outcomes) if what]:
        raise RanksError(f"{_me()}, in {current_scope()}: another rank failed. {'; '.join(failed)}")
    return value


def gather_results(function: Callable[..., T], *args) -> list[T]:
    """The results of `function` on all ranks; if it raises on any, every rank raises once all have called it."""
    return all_gather_object(on_all_ranks(function, *args))


def local_slice(count: int, holders: int = 0) -> slice:
    """This rank's part of `count` items: consecutive, and as evenly divided as possible.

    With `holders` only so many ranks have a part, the first of them and others at equal distances.
    """
    holders = holders or world_size()
    before, after = (-(-n * holders // world_size()) for n in (rank(), rank() + 1))  # holders up to here
    return slice(count * before // holders, count * after // holders)


def _reduce(x: Tensor, how) -> Tensor:
    if world_size() == 1:
        return x
    y = x.detach().cpu().clone()
    with _collective("a reduction"):
        dist.all_reduce(y, how, group=_host_group)
    return y.to(x.device)


@contextmanager
def _collective(kind: str):
    try:
        yield
    except RuntimeError as error:  # gloo's own errors are of no other type
        raise RanksError(f"{_me()}, in {current_scope()}: {kind} of all ranks failed: {error}") from error


@contextmanager
def _network(alone: dict):
    """gloo needs a network address even in a world of one."""
    try:
        yield
    except RuntimeError as error:
        if alone and "Unable to find" in str(error):
            raise ConfigError(
                "no network interface is up here, not even the loopback, which torch's collectives need: "
                "`ip link set lo up`, or a container with a network"
            ) from error
        raise


def _told_to_stop(*_) -> None:
    if _failing:  # an error on its way out says more; ending here would lose it
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if not _places:  # starting, or ending already
        signal.raise_signal(signal.SIGTERM)
    raise SystemExit(f"{_me()}, in {current_scope()}: stopped by SIGTERM")


def _me() -> str:
    return f"rank {rank()} of {world_size()} on {socket.gethostname()}"
