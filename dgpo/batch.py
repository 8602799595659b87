"""The sequences of a step in three stages: sampled (Rollout), scored (Scored), weighted for an update (Weighted)."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

_PER_TOKEN = (
    "mask",
    "rollout_logp",
    "old_logp",
    "entropy",
    "ref_logp",
    "importance_weight",
    "loss_weight",
    "w_log",
    "penalty",
)


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """B sequences from a sampler: left-padded prompts of P tokens, then right-padded completions of T tokens.

    input_ids         [B, P+T] int64
    attention_mask    [B, P+T] bool, true on prompt and completion tokens
    mask              [B, T] bool, true on completion tokens, the end of sequence included
    rollout_logp      [B, T] float32, log π by the sampler
    finished          [B] bool, ended by a stop token, not by the length limit
    sequence_id       [B] int64, the sequence's number in the step's batch; completions of one prompt are neighbours
    """

    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    rollout_logp: Tensor
    finished: Tensor
    sequence_id: Tensor

    def __len__(self):
        return len(self.input_ids)

    @property
    def completion(self) -> Tensor:
        """The completion part of `input_ids`, [B, T]."""
        return self.input_ids[:, -self.mask.shape[1] :]

    def replace(self, **fields) -> Self:
        return dataclasses.replace(self, **fields)

    def to(self, device: str | torch.device) -> Self:
        moved: dict[str, Any] = {k: v.to(device) for k, v in self.tensors().items()}
        return type(self)(**moved)

    def tensors(self) -> dict[str, Tensor]:
        """Every field that is not None, by name."""
        return {k: v for k, v in vars(self).items() if v is not None}

    def scored(self, **fields: Any) -> "Scored":
        """The same sequences with the fields that Scored adds."""
        return Scored(**vars(self), **fields)

    def select(self, index: Tensor) -> Self:
        """The sequences at `index` (numbers or a boolean mask), without columns that are padding in all of them."""
        part: dict[str, Any] = {k: v[index] for k, v in self.tensors().items()}
        P = self.input_ids.shape[1] - self.mask.shape[1]
        live = part["attention_mask"].any(0)
        first = int(live[:P].int().argmax()) if P else 0
        T = max(int(part["mask"].sum(1).max()), 1) if len(part["mask"]) else 1
        for name in ("input_ids", "attention_mask"):
            part[name] = part[name][:, first : P + T]
        for name in part.keys() & _PER_TOKEN:
            part[name] = part[name][:, :T]
        return type(self)(**part)

    def micro_batches(self, rows: int, tokens: int | None = None) -> list[Tensor]:
        """The sequence numbers of each micro-batch: at most `rows` consecutive ones.

        With a budget of `tokens` instead: sequences of similar length, longest first, as many as keep
        sequences × longest (prompt and completion) ≤ tokens. Raises ValueError for a sequence above the budget.
        """
        if tokens is None:
            return list(torch.arange(len(self)).split(rows)) if len(self) else []
        length = self.attention_mask.sum(1)
        order = length.argsort(descending=True, stable=True)
        parts, start = [], 0
        while start < len(order):
            longest = max(int(length[order[start]]), 1)
            if longest > tokens:
                raise ValueError(f"a sequence of {longest} tokens does not fit a micro-batch of {tokens}")
            parts.append(order[start : start + tokens // longest])
            start += len(parts[-1])
        return parts

    def dummy(self) -> Self:
        """One sequence of the batch without a live token: its loss and gradients are 0."""
        one = self.select(torch.arange(1))
        return one.replace(mask=torch.zeros_like(one.mask))

    def split_across_ranks(self, count: int) -> list[Tensor]:
        """The sequence numbers of each of `count` ranks, dealt out by length to balance the work."""
        if count == 1:
            return [torch.arange(len(self))]
        order = self.attention_mask.sum(1).argsort(descending=True, stable=True)
        return [order[i::count].sort().values for i in range(count)]

    def minibatches(self, updates: int, epochs: int, generator: torch.Generator) -> Iterator[Self]:
        """`epochs` × `updates` optimizer batches, each epoch a fresh random partition of the sequences."""
        orders = [torch.randperm(len(self), generator=generator) for _ in range(epochs)]  # before others draw from it
        for order in orders:
            for index in order.tensor_split(min(updates, len(self))) if len(self) else ():
                yield self.select(index)


@dataclass(frozen=True, kw_only=True)
class Scored(Rollout):
    """A rollout with rewards turned into advantages, and the trainer's own log-probabilities at rollout time.

    advantage         [B, 1] float32
    old_logp          [B, T] float32, log π_old
    entropy           [B, T] float32, of the same policy, in nats
    ref_logp          [B, T] float32, log π by the reference, the policy at the start of the run; None without one
    importance_weight [B, T] float32, factor of the policy-gradient term (objective.importance_weights); None means 1
    """

    advantage: Tensor
    old_logp: Tensor
    entropy: Tensor
    ref_logp: Tensor | None = None
    importance_weight: Tensor | None = None

    def weighted(self, loss_weight: Tensor) -> "Weighted":
        """The same sequences as one optimizer batch."""
        return Weighted(**vars(self), loss_weight=loss_weight)


@dataclass(frozen=True, kw_only=True)
class Weighted(Scored):
    """An optimizer batch, or a part of one.

    loss_weight       [B, T] float32, a token's weight in the loss of the whole optimizer batch (objective.loss_weights)
    w_log, penalty    [B, T] float32, of a method that needs the whole optimizer batch; None: computed as it is cut
    """

    loss_weight: Tensor
    w_log: Tensor | None = None
    penalty: Tensor | None = None

    def dummy(self) -> Self:
        one = super().dummy()
        return one.replace(loss_weight=torch.zeros_like(one.loss_weight))


def concatenate(batches: list[Rollout]) -> Rollout:
    """One batch of all sequences, padded to the longest prompt and completion."""
    P = max(b.input_ids.shape[1] - b.mask.shape[1] for b in batches)
    T = max(b.mask.shape[1] for b in batches)

    def pad(x: Tensor, left: int, right: int) -> Tensor:
        return torch.nn.functional.pad(x, (left, right))

    parts = []
    for b in batches:
        t = b.mask.shape[1]
        left, right = P - (b.input_ids.shape[1] - t), T - t
        parts.append(
            {
                "input_ids": pad(b.input_ids, left, right),
                "attention_mask": pad(b.attention_mask, left, right),
                "mask": pad(b.mask, 0, right),
                "rollout_logp": pad(b.rollout_logp, 0, right),
                "finished": b.finished,
                "sequence_id": b.sequence_id,
            }
        )
    return Rollout(**{k: torch.cat([p[k] for p in parts]) for k in parts[0]})
