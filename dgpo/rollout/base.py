"""The protocol of a sampler: prompts and seeds in, completions with their log-probabilities out."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from dgpo.batch import Batch
from dgpo.errors import Explained


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: from softmax(logits / temperature), until a stop token or the limit.

    `top_p` below 1 keeps the fewest most probable words that make up that probability. It is for evaluation: training
    never sets it, since a sampler that renormalises makes ratios drift from 1 without an error. The `rollout_logp` of
    a Batch is under the softmax over all words in either case.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


class SamplerError(Explained, RuntimeError):
    """The process of a sampler failed, died or fell silent."""


class Sampler(Protocol):
    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> Batch:
        """One completion of each prompt, given as token ids; the caller repeats prompts for several completions.

        Completion i depends on its prompt and `seeds[i]`, not on its neighbours. In the Batch, `rollout_logp` is under
        the sampling distribution, and `row` numbers the sequences.
        """

    def sleep(self) -> None:
        """Give back the memory that is not needed until the next `load`; no completion is asked for before."""

    def close(self) -> None:
        """End what the sampler started."""

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the policy's weights, (name as in the checkpoint, full tensor); called after every step's updates.

        A tensor may be gone when the next one is asked for, so that no more than one need be whole at a time.
        """
