"""Samplers on devices of their own (`sampler_ranks`): the ranks that own one, and the devices.

On each node the ranks train on the first devices, and the samplers that they own run on the next ones. Each owner
samples an equal part of every request; `process_group.local_slice` spreads owners over ranks, and so over nodes.
"""

import os
from collections.abc import Iterable

import torch
from torch import Tensor

from dgpo.batch import Rollout
from dgpo.config import Config, ConfigError
from dgpo.distributed import process_group
from dgpo.rollout.base import Sampler, Sampling


class SampledElsewhere(Sampler):
    """What a rank without a sampler has: an empty share of every request."""

    def __init__(self, config: Config):
        self.holders = config.sampler_ranks

    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> Rollout:
        nothing = torch.empty(0, 1)
        return Rollout(
            input_ids=nothing.long(),
            attention_mask=nothing.bool(),
            mask=nothing.bool(),
            rollout_logp=nothing,
            finished=nothing[:, 0].bool(),
            sequence_id=nothing[:, 0].long(),
        )

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for _ in weights:  # under ZeRO-3 all ranks gather each of them
            pass


def make(config: Config, *arguments) -> Sampler:
    """This rank's sampler in a process of its own, if it owns one. All ranks must call it."""
    from dgpo.rollout.background import BackgroundSampler

    place = device(config)
    if range(config.sampler_ranks)[process_group.local_slice(config.sampler_ranks, config.sampler_ranks)]:
        return BackgroundSampler(config, *arguments, device=place)
    return SampledElsewhere(config)


def device(config: Config) -> int | None:
    """The number of the GPU of the sampler that this rank owns; None on a CPU. All ranks must call it.

    Raises ConfigError where this node has fewer GPUs than ranks and samplers.
    """
    count, world = config.sampler_ranks, process_group.world_size()
    firsts = process_group.all_gather_object(process_group.rank() - int(os.environ.get("LOCAL_RANK", "0")))
    if not torch.cuda.is_available() or config.device == "cpu" or not count:
        return None
    here = [rank for rank, first in enumerate(firsts) if first == firsts[process_group.rank()]]
    owners = [rank for rank in (i * world // count for i in range(count)) if rank in here]
    if (devices := torch.cuda.device_count()) < len(here) + len(owners):
        raise ConfigError(
            f"sampler_ranks={count}: the {len(here)} ranks and {len(owners)} samplers of this host need "
            f"{len(here) + len(owners)} GPUs, and there are {devices}: use fewer samplers, or fewer ranks"
        )
    return len(here) + owners.index(process_group.rank()) if process_group.rank() in owners else None
