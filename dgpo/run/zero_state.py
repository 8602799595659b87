"""A rank's part of the weights and the optimizer, in a file that any number of ranks can read.

ZeRO keeps the float32 weights and Adam's two moments flat and partitioned over the ranks. A shard holds a rank's
pieces, each keyed by the parameter's name and the element where the piece begins:

    lm.model.norm.weight|4096|exp_avg      float32 [n], the elements 4096 … 4096 + n of the flattened parameter

and the shapes of all parameters, since the beginning of a larger parameter would silently fill a smaller one.

A rank reads from all shards what its own pieces overlap, so the number of ranks and the ZeRO stage may differ from
those that wrote. The files are safetensors: nothing in them is executed.
"""

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dgpo.distributed import process_group
from dgpo.errors import mark_common
from dgpo.run import identity
from dgpo.run.checkpoint import CheckpointError

_MOMENTS = ("exp_avg", "exp_avg_sq")
_SCALE = ("cur_scale", "cur_iter", "last_overflow_iter")  # of float16's loss


@dataclass(frozen=True)
class Piece:
    """Elements `start` … `start + size` of the flattened parameter `name`: `flat[offset : offset + size]`."""

    name: str
    start: int
    size: int
    offset: int
    flat: Tensor  # the optimizer's parameter

    def of(self, flat: Tensor) -> Tensor:
        """The same piece of `flat`, the weights or a moment."""
        return flat.detach()[self.offset : self.offset + self.size]


def pieces(model: nn.Module, zero) -> Iterator[Piece]:
    """The pieces that this rank holds under DeepSpeed's ZeRO optimizer, of stage 1, 2 or 3."""
    for name, parameter in model.named_parameters():
        own: Any = parameter  # with the attributes that ZeRO adds
        if not parameter.requires_grad:  # frozen: it is as the start policy has it
            continue
        if hasattr(parameter, "ds_id"):  # stage 3 partitions every parameter evenly and pads the last part
            group, offset, even = zero.grad_position[zero.get_param_id(parameter)]
            start = process_group.rank() * even
            if (size := min(even, own.ds_numel - start)) > 0:
                yield Piece(name, start, size, offset, zero.fp32_partitioned_groups_flat[group])
        elif (held := own._hp_mapping) is not None:  # stages 1 and 2 partition the whole; None: no part is here
            inside, flat = held.lp_fragment_address, zero.single_partition_of_fp32_groups[held.param_group_index]
            yield Piece(name, inside.start, inside.numel, held.hp_fragment_address.start, flat)


def save(folder: Path, model: nn.Module, zero) -> None:
    """Write this rank's shard into `folder`."""
    shard = {}
    for piece in pieces(model, zero):
        held = {"weight": piece.flat, **zero.optimizer.state[piece.flat]}
        for kind in ("weight", *_MOMENTS):
            if kind in held:  # before the first update there are no moments
                shard[f"{piece.name}|{piece.start}|{kind}"] = piece.of(held[kind]).cpu()
    about = {"shapes": json.dumps(identity.of_parameters(model))}
    if (scaler := zero.loss_scaler).dynamic:
        about["loss_scale"] = json.dumps({name: getattr(scaler, name) for name in _SCALE})
    save_file(shard, folder / f"rank_{process_group.rank():05d}.safetensors", metadata=about)


@torch.no_grad()
def load(folder: Path, model: nn.Module, zero, updates: int) -> None:
    """Read this rank's pieces, as they were after `updates` optimizer steps.

    Raises CheckpointError for parameters of other names or shapes, before anything is changed, and for a missing piece.
    """
    with ExitStack() as stack:
        where = defaultdict(list)  # (parameter, kind) → the file, key, start and end of each piece
        for path in sorted(folder.glob("rank_*.safetensors")):
            file = stack.enter_context(safe_open(path, "pt"))
            about = file.metadata() or {}
            _compare(path, json.loads(about.get("shapes", "{}")), identity.of_parameters(model))
            vars(zero.loss_scaler).update(json.loads(about.get("loss_scale", "{}")))
            for key in file.keys():  # noqa: SIM118 (it is no mapping)
                name, start, kind = key.split("|")
                size = file.get_slice(key).get_shape()[0]
                where[name, kind].append((file, key, int(start), int(start) + size))
        for piece in pieces(model, zero):
            held = {"weight": piece.flat}
            if updates:
                state = zero.optimizer.state[piece.flat]
                for kind in _MOMENTS:
                    held[kind] = state.setdefault(kind, torch.zeros_like(piece.flat))
            for kind, flat in held.items():
                _fill(piece.of(flat), piece.start, where[piece.name, kind], f"{folder}: {kind} of {piece.name}")
    for flat, state in zero.optimizer.state.items():  # a fused AdamW counts its steps on the GPU
        state["step"] = torch.tensor(float(updates), device=flat.device)
    _spread(zero)


def _compare(path: Path, saved: dict[str, str], own: dict[str, str]) -> None:
    found = [f"{c.item} {c.before} → {c.now}" for c in identity.changes({"": saved}, {"": own})]
    if found:
        more = f" and {len(found) - 3} more" if len(found) > 3 else ""
        error = CheckpointError(f"{path} is of a model of other shapes than this one: {', '.join(found[:3])}{more}")
        mark_common(error)  # every rank reads all shards
        raise error


def _fill(target: Tensor, start: int, sources: list, what: str) -> None:
    """Copy into `target`, which begins at element `start`, all that `sources` hold of it."""
    filled = 0
    for file, key, first, end in sources:
        low, high = max(first, start), min(end, start + len(target))
        if low < high:
            target[low - start : high - start].copy_(file.get_slice(key)[low - first : high - first])
            filled += high - low
    if filled != len(target):
        raise CheckpointError(f"{what}: {filled} of the {len(target)} elements from {start} on")


def _spread(zero) -> None:
    """Bring the float32 weights into the model, as DeepSpeed does at the end of an optimizer step."""
    if not hasattr(zero, "fp32_partitioned_groups_flat"):
        zero.update_lp_params()
        return
    zero._partition_all_parameters()
    for group in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(group)
    if zero.persistent_parameters:
        zero.persistent_parameters[0].all_gather(zero.persistent_parameters)
