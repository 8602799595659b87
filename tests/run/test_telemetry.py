"""What the tokens of a step leave behind."""

import math

import pytest
import torch

from dgpo import methods
from dgpo.batch import Scored
from dgpo.run.telemetry import TokenStats


def test_the_largest_weight_applied_leaves_out_tokens_without_advantage():
    """A group whose rewards are all equal has advantage 0: whatever its tokens weigh has no effect."""
    method, one = methods.get("pg"), torch.ones(2, 1, dtype=torch.bool)
    batch = Scored(
        input_ids=torch.zeros(2, 2, dtype=torch.long),
        attention_mask=torch.ones(2, 2, dtype=torch.bool),
        mask=one,
        rollout_logp=torch.zeros(2, 1),
        finished=one[:, 0],
        sequence_id=torch.arange(2),
        advantage=torch.tensor([[0.0], [-1.0]]),
        old_logp=torch.tensor([[-5.0], [-1.0]]),
        entropy=torch.zeros(2, 1),
    )
    logp = torch.tensor([[-1.0], [-0.5]])
    telemetry = TokenStats(method, 0, 2, torch.Generator())
    telemetry.add(0, batch, logp, method.weight(logp, batch.old_logp, batch.advantage, one))
    found = telemetry.metrics()
    assert found["max_w_log"] == pytest.approx(math.exp(4))
    assert found["max_w_log/applied"] == pytest.approx(math.exp(0.5))
    assert found["max_w_prob"] == pytest.approx(math.exp(5))
    assert found["max_w_prob/applied"] == pytest.approx(math.exp(1))
