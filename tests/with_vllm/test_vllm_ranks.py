"""Two ranks under ZeRO-3 with an engine each, or one for both: `torchrun` starts this file, which says how far off."""

import json
import sys

import pytest
from launch import ROOT, run


def distances(settings: dict) -> list[list[float]]:
    """[max |Δ log π| of what was just sampled, and of the same once the policy has moved] of three updates."""
    import torch

    from dgpo import config as configs
    from dgpo import trainer
    from dgpo.distributed import process_group
    from dgpo.evaluation.heldout import encode
    from dgpo.rollout import Sampling

    parts = trainer.Trainer(configs.make(settings))
    prompts = encode(parts.tokenizer, ["7+5=", "3*4-2=", "9-1=", "8*2="])[process_group.local_slice(4)] * 2
    prompts += prompts[:1] * process_group.rank()  # not the same number on both
    found = []
    for step in range(3):
        seeds = [100 * step + 10 * process_group.rank() + i for i in range(len(prompts))]
        batch = parts.sampler.generate(prompts, seeds, Sampling(14))
        off = []
        for _ in range(2):
            with torch.no_grad():
                off.append(float((parts.policy(batch)[0] - batch.rollout_logp).abs().max()))
            if len(off) == 1:
                parts.engine.update(batch, lambda micro: (parts.engine(micro)[0] * micro.mask).sum() / 100)
        parts.sampler.load(parts.engine.named_full_parameters())
        found.append(off)
    return found


@pytest.mark.parametrize("spread", [1, 2])
def test_engines_of_two_ranks_have_the_weights_that_are_sharded_over_them(small, tmp_path, spread):
    """One engine a rank, or one that both share."""
    settings = {**small, "zero_stage": 3, "lr": 1e-2, "vllm": {"tensor_parallel": spread}}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", __file__]
    result = run([*launcher, json.dumps(settings), str(tmp_path)], PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    assert result.returncode == 0, result.stderr
    for rank in range(2):
        for fresh, stale in json.loads((tmp_path / f"{rank}.json").read_text()):
            assert fresh <= 1e-4
            assert stale > 0.1


if __name__ == "__main__":
    import os
    from pathlib import Path

    from dgpo.distributed import process_group

    out = Path(sys.argv[2]) / f"{os.environ['RANK']}.json"
    out.write_text(json.dumps(distances(json.loads(sys.argv[1]))))
    process_group.destroy()
