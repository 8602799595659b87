"""The interface of a sampler: prompts and seeds in, completions with their log-probabilities out."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from dgpo.batch import Rollout
from dgpo.distributed import process_group
from dgpo.errors import Explained


@dataclass(frozen=True)
class Sampling:
    """How completions are drawn: from softmax(logits / temperature), until a stop token or the limit.

    `top_p` below 1 keeps the smallest set of most probable tokens with that much probability. It is for evaluation:
    training never sets it, since a renormalised sampler makes ratios drift from 1 without an error. The `rollout_logp`
    of a Rollout is under the softmax over all tokens in either case.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0


class SamplerError(Explained, RuntimeError):
    """A sampler's process failed, died or did not answer."""


class Sampler:
    """Samples with a copy of the policy, or with the policy itself.

    works_ahead whether `begin` starts the next step's request; if so, `ahead` and `restore` are overridden too
    staleness   loads of weights since those that sampled the last completions; 0 unless the sampler works ahead
    holders     ranks that have a sampler; 0: all of them
    """

    works_ahead = False
    staleness = 0
    holders = 0

    def share(self, count: int) -> slice:
        """This rank's part of `count` requests; on all ranks together it is all of them, in order."""
        return process_group.local_slice(count, self.holders)

    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> Rollout:
        """One completion of each prompt, given as token ids; the caller repeats prompts for several completions.

        Completion i depends on its prompt and `seeds[i]`, not on its neighbours. In the Rollout, `rollout_logp` is
        under the sampling distribution, and `sequence_id` numbers the sequences.
        """
        raise NotImplementedError

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Load the policy's weights, (name as in the checkpoint, full tensor); called after every step's updates.

        A tensor may be freed when the next one is drawn, so that only one is whole at a time.
        """
        raise NotImplementedError

    def begin(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> None:
        """Start on the next step's request with the present weights, and return at once; `generate` collects it."""

    def ahead(self) -> Rollout | None:
        """Wait for the completions of the request that was begun; None if there is none."""
        return None

    def restore(self, batch: Rollout, seeds: list[int]) -> None:
        """Restore the completions that `ahead` returned before an interruption, for the request with `seeds`."""

    def sleep(self) -> None:
        """Free the memory that is not needed until the next `load`; nothing is sampled before it."""

    def close(self) -> None:
        """End the processes and engines of the sampler."""
