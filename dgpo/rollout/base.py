"""The protocol of a sampler: prompts and seeds in, completions with their log-probabilities out."""

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from dgpo.batch import Batch


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: from softmax(logits / temperature) over all words, until a stop token or the limit.

    There is no top-p or top-k: a sampler that renormalises makes ratios drift from 1 without an error.
    """

    max_new_tokens: int
    temperature: float = 1.0


class Sampler(Protocol):
    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> Batch:
        """One completion of each prompt, given as token ids; the caller repeats prompts for several completions.

        Completion i depends on its prompt and `seeds[i]`, not on its neighbours. In the Batch, `rollout_logp` is under
        the sampling distribution, and `row` numbers the sequences.
        """

    def load(self, policy: nn.Module) -> None:
        """Take over the policy's weights; called after every step's updates."""
