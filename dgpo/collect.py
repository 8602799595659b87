"""What a step learns from: the next problems of the stream, completed by the sampler and judged by the task."""

from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from dgpo.batch import Rollout, concatenate
from dgpo.config import Config
from dgpo.distributed import process_group
from dgpo.evaluation.heldout import decode, encode, token_ids
from dgpo.objective import zero_variance
from dgpo.rollout import Sampling
from dgpo.run.telemetry import PhaseTimer
from dgpo.seeds import fold_in
from dgpo.tasks.base import Problem

Metrics = dict[str, float | None]


class Collector:
    """Completions of `prompts_per_step` problems at a time, from a place in the stream that a checkpoint keeps.

    position     of the next problem in the stream, the same on all ranks
    """

    def __init__(self, config: Config, tokenizer, task, sampler, seconds: PhaseTimer):
        self.config, self.tokenizer, self.task, self.sampler, self.seconds = config, tokenizer, task, sampler, seconds
        self.sampling = Sampling(config.max_new_tokens, config.temperature)
        self.position = 0

    def restore(self, position: int, ahead: Rollout | None) -> None:
        """Go on at a place, with the batch that the samplers, however many, had made ahead."""
        self.position = position
        if ahead is not None and len(own := self._rows(self._places(self.sampler.share))):
            self.sampler.restore(ahead.select(own), self._requests()[1])

    def collect(self) -> tuple[Rollout, Tensor, Metrics]:
        """Completions and rewards `[groups, n]` to learn from, and metrics of everything sampled.

        filter_groups="drop" leaves out groups whose rewards are all equal; "resample" samples others in their place,
        for `max_resample_rounds` rounds at most (the dynamic sampling of DAPO, arXiv 2503.14476).
        """
        config, batches, scores, rounds, stale = self.config, [], [], 0, 0
        known = Counter(self.task.verdicts)
        self.task.means()  # an evaluation's do not count here
        while True:
            batch, rewards = self._sample()
            batches.append(batch)
            scores.append(rewards)
            silent = zero_variance(torch.cat(scores))
            enough = config.filter_groups != "resample" or int((~silent).sum()) >= config.prompts_per_step
            rounds += 1
            stale = max(stale, self.sampler.staleness)
            if enough or rounds == config.max_resample_rounds:
                break
        batch, rewards = concatenate(batches), torch.cat(scores)
        metrics = {
            "reward/mean": float(rewards.mean()),
            "reward/std": float(rewards.std(correction=0)),
            "length/mean": float(batch.mask.sum(1).float().mean()),
            "length/max": float(batch.mask.sum(1).max()),
            "truncated": float(1 - batch.finished.float().mean()),
            "groups": len(silent),
            "groups/zero_variance": int(silent.sum()),
        }
        if config.asynchronous:
            metrics["staleness/steps"] = stale
        self.sampler.sleep()
        verdicts = sum(process_group.all_gather_object(self.task.verdicts - known), Counter())
        metrics |= {f"verdict/{name}": count / verdicts.total() for name, count in sorted(verdicts.items())}
        metrics |= _means(process_group.all_gather_object(self.task.means()))  # of each reward of one's own
        if config.filter_groups != "none":
            kept = (~silent).nonzero().squeeze(1)[: config.prompts_per_step]
            rows = (~silent).repeat_interleave(config.group_size).nonzero().squeeze(1)
            batch, rewards = batch.select(rows[: len(kept) * config.group_size]), rewards[kept]
        return batch.replace(sequence_id=torch.arange(len(batch))), rewards, metrics

    def begin(self) -> None:
        """Let a sampler that works ahead begin the next step, with the policy that this step starts from."""
        if self.sampler.works_ahead:
            self.sampler.begin(*self._requests(), self.sampling)

    def _sample(self) -> tuple[Rollout, Tensor]:
        """Completions of the next problems and their rewards `[groups, n]`; all ranks judge, whichever sample."""
        with self.seconds.phase("rollout"):
            parts = process_group.all_gather_object(self.sampler.generate(*self._requests(), self.sampling))
            batch = concatenate([part for part in parts if len(part)])
        with self.seconds.phase("reward"):
            places = self._places(process_group.local_slice)
            own = batch.select(self._rows(places))
            found = self.task.score(self._problems(places), decode(self.tokenizer, own), token_ids(own))
            rewards = torch.tensor([0.0 if reward is None else reward for reward in found], dtype=torch.float32)
            rewards = torch.cat(process_group.all_gather_object(rewards)).view(-1, self.config.group_size)
        self.position += self.config.prompts_per_step
        return batch, rewards

    def _requests(self) -> tuple[list[list[int]], list[int]]:
        """Prompts and seeds of the sampler's share of the next problems."""
        places = self._places(self.sampler.share)
        seeds = [fold_in(self.config.seed, "rollout", p, i) for p in places for i in range(self.config.group_size)]
        return encode(self.tokenizer, [p.prompt for p in self._problems(places)]), seeds

    def _places(self, share: Callable[[int], slice]) -> range:
        """A share of the next `prompts_per_step` problems: their places in the stream."""
        count = self.config.prompts_per_step
        return range(self.position, self.position + count)[share(count)]

    def _problems(self, places: range) -> list[Problem]:
        """The problems at these places, `group_size` times each."""
        return [self.task.train(place) for place in places for _ in range(self.config.group_size)]

    def _rows(self, places: range) -> Tensor:
        """The rows of the next batch that complete the problems at these places."""
        n = self.config.group_size
        return torch.arange((places.start - self.position) * n, (places.stop - self.position) * n)


def _means(parts: list[dict[str, tuple[float, int]]]) -> Metrics:
    """The mean of each reward over all ranks, from the (sum, count) of each rank."""
    sums = {name: [sum(column) for column in zip(*(part[name] for part in parts), strict=True)] for name in parts[0]}
    return {f"reward/{name}": total / count for name, (total, count) in sums.items() if count}
