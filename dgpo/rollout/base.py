"""What a sampler is: prompts and seeds in, completions with their log-probabilities out."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from dgpo.batch import Rollout
from dgpo.errors import Explained


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: from softmax(logits / temperature), until a stop token or the limit.

    `top_p` below 1 keeps the fewest most probable words that make up that probability. It is for evaluation: training
    never sets it, since a sampler that renormalises makes ratios drift from 1 without an error. The `rollout_logp` of
    a Rollout is under the softmax over all words in either case.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


class SamplerError(Explained, RuntimeError):
    """The process of a sampler failed, died or fell silent."""


class Sampler:
    """Samples with a copy of the policy, or with the policy itself.

    works_ahead whether `begin` starts the next step's request; then `ahead` and `restore` are overridden too
    staleness   weights loaded since those that sampled the last completions; 0 unless the sampler works ahead
    """

    works_ahead = False
    staleness = 0

    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> Rollout:
        """One completion of each prompt, given as token ids; the caller repeats prompts for several completions.

        Completion i depends on its prompt and `seeds[i]`, not on its neighbours. In the Rollout, `rollout_logp` is
        under the sampling distribution, and `sequence_id` numbers the sequences.
        """
        raise NotImplementedError

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Take over the policy's weights, (name as in the checkpoint, full tensor); called after every step's updates.

        A tensor may be freed when the next one is taken, so that only one is whole at a time.
        """
        raise NotImplementedError

    def begin(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> None:
        """Start on the next step's request by the present weights, and return at once; its `generate` follows."""

    def ahead(self) -> Rollout | None:
        """The completions of the request that was begun, waited for; None without one."""
        return None

    def restore(self, batch: Rollout, seeds: list[int]) -> None:
        """Take the completions that `ahead` returned before the run was interrupted, for the request of `seeds`."""

    def sleep(self) -> None:
        """Give back the memory that is not needed until the next `load`; nothing is sampled before."""

    def close(self) -> None:
        """End what the sampler started."""
