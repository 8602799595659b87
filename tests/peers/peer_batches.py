"""Random batches for the peers' losses, and the gradient of ours on them."""

import pytest
import torch

import dgpo
from dgpo.integrations import common
from dgpo.methods import Method

KEYS = common.supported()


@pytest.fixture
def batch():
    """Log-probabilities that moved by up to some nats, `[8, 12]` float64, with completions of unequal length."""
    torch.manual_seed(0)
    length = torch.tensor([12, 1, 7, 12, 3, 9, 5, 2])
    mask = torch.arange(12) < length[:, None]
    old_logp = -torch.rand(8, 12, dtype=torch.float64) * 4 - 2.5
    logp = old_logp + torch.randn(8, 12, dtype=torch.float64)
    advantage = torch.randn(8, 1, dtype=torch.float64).expand(8, 12).contiguous()
    return {"logp": logp, "old_logp": old_logp, "advantage": advantage, "mask": mask}


def ours(batch: dict, method: str | Method, aggregation: str, length: int | None = None) -> torch.Tensor:
    """The gradient of dgpo.policy_loss on log π, `[8, 12]`."""
    logp = batch["logp"].clone().requires_grad_()
    rest = (batch[name] for name in ("old_logp", "advantage", "mask"))
    dgpo.policy_loss(logp, *rest, method=method, loss_aggregation=aggregation, length=length).backward()
    return logp.grad


def same(theirs: torch.Tensor, mine: torch.Tensor, within: float = 1e-6) -> None:
    """Every entry within `within` of the largest."""
    assert mine.abs().max() > 0
    assert (theirs - mine).abs().max() <= within * mine.abs().max()
