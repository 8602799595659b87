"""Two runs that add the same numbers in another order: how to make them comparable, and how near they have to be.

Float32 sums in another order differ in their last bits, and kernels of another processor do too. Two things enlarge it:

A draw. The sampler looks a number up in a cumulative distribution, and of the small run's 2,296 draws 10 lie within
1e-4 of a boundary. Rounding moves a boundary by 4e-7, so on one machine in 25 some draw takes another token, and the
numbers part for good. `steady_draws` takes tokens by the seeds alone.

Adam. It divides a gradient by its own size, so a weight whose gradient is rounding alone moves as far as any other.

What is left after 16 updates, seen under three sets of kernels, against the smallest planted faults:

                        smaller micro-batches, ZeRO 1-3, offload    a token too many in a mean    Adam's mean forgotten
    a metric, relative  7e-6                                        1e-2                          1
    weights / way made  5e-6                                        5e-6 (Adam divides it out)    0.3
"""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dgpo.rollout.transformers import _Draw
from dgpo.run.rows import read_metrics
from dgpo.tasks.chain import ChainTask

ROUNDING = 3e-4  # half way, in orders of magnitude, between what rounding does and what a fault does
_NOISE = ("mismatch/mean_abs", "mismatch/kl")  # the distance of two computations of one number is rounding alone


def steady_draws(setattr=setattr) -> None:
    """Draw tokens by the seeds alone, uniformly, and reward a completion by the parity of its text."""

    def draw(self, _, scores):
        token = (self.uniform[len(self.logp)] * scores.shape[-1]).long().unsqueeze(1)
        self.logp.append(torch.log_softmax(scores.float() / self.temperature, -1).gather(1, token).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)

    def rewards(self, problems, completions):
        return [float(sum(map(ord, text)) % 2) for text in completions]

    setattr(_Draw, "__call__", draw)
    setattr(ChainTask, "rewards", rewards)


def assert_alike(one: Path, two: Path, start: Path) -> None:
    """The metrics of two runs with steady draws, and the way that their weights made from the checkpoint `start`."""
    for a, b in zip(read_metrics(Path(one)), read_metrics(Path(two)), strict=True):
        assert a.keys() == b.keys()
        for name in (name for name in a if name not in _NOISE):
            assert b[name] == pytest.approx(a[name], rel=ROUNDING, abs=1e-6), f"step {a['step']}: {name}"
    a, b, start = (load_file(Path(path) / "model.safetensors") for path in (one / "policy", two / "policy", start))
    assert a.keys() == b.keys()
    a, b, start = (torch.cat([x[name].flatten() for name in sorted(a)]) for x in (a, b, start))
    assert (a - b).norm() <= ROUNDING * (a - start).norm()
