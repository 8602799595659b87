"""The page that shows the algorithm trains as the trainer does."""

import runpy

import pytest
import torch
from running import ROOT, SMALL, rows, run, weights

from dgpo import config as configs


@pytest.mark.parametrize("method", ["dgpo", "gspo"])
def test_the_page_makes_the_updates_of_the_trainer(method, tmp_path):
    """The same rewards in every step; weights apart by rounding (micro-batches, DeepSpeed's flat buffers)."""
    settings = {**SMALL, "method": method, "run_dir": str(tmp_path / "run"), "log_reference_kl": False}
    expected = rows(run(settings))[1:]
    policy, history = runpy.run_path(str(ROOT / "examples" / "minimal.py"))["train"](configs.make(settings))
    assert history == pytest.approx([row["reward/mean"] for row in expected], abs=1e-7)
    own = policy.lm.state_dict()
    for name, tensor in weights(tmp_path / "run").items():
        torch.testing.assert_close(own[name], tensor, atol=1e-4, rtol=0)


def test_the_page_is_a_page():
    source = (ROOT / "examples" / "minimal.py").read_text()
    assert len([line for line in source.splitlines() if line.strip()]) <= 60
    assert "deepspeed" not in source
