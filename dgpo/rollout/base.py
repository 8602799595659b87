"""The protocol of a sampler: prompts and seeds in, completions with their log-probabilities out."""

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from dgpo.batch import Batch


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: from softmax(logits / temperature) over the whole vocabulary, until a stop token or the limit.

    There is no top-p or top-k: a sampler that renormalises makes ratios drift from 1 without an error.
    """

    max_new_tokens: int
    temperature: float = 1.0


class Sampler(Protocol):
    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> Batch:
        """One completion of each prompt (token ids); completion i depends on its prompt and `seeds[i]`, not on its neighbours.

        Prompts are repeated by the caller for several completions. Returns a Batch with `rollout_logp` under the
        sampling distribution; `row` numbers them.
        """

    def load(self, policy: nn.Module) -> None:
        """Take over the policy's weights; called after every step's updates."""
