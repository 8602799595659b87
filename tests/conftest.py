"""Small settings and a warmed-up policy that all tests share."""

import os
import tempfile

# Before the first import of a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["DGPO_CACHE"] = os.environ.get("DGPO_TEST_CACHE") or tempfile.mkdtemp(prefix="dgpo-tests-")

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("dgpo", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("dgpo")

SMALL = {
    "tiny": {"hidden": 32, "layers": 2, "heads": 2, "max_difficulty": 2, "steps": 200, "seed": 0},
    "difficulty": 1,
    "steps": 4,
    "prompts": 8,
    "completions": 4,
    "updates": 4,
    "micro_batch": 4,
    "max_new_tokens": 14,
    "eval_problems": 6,
    "eval_completions": 2,
    "eval_every": 2,
    "checkpoint_every": 2,
    "token_records": 64,
}


@pytest.fixture(scope="session")
def settings():
    """Settings of a run of a few seconds, without its folder."""
    return SMALL


@pytest.fixture
def small(tmp_path):
    """Settings of a run of a few seconds, in a folder of its own."""
    return {**SMALL, "run_dir": str(tmp_path / "run")}


@pytest.fixture(scope="session")
def checkpoint():
    """The folder of the small policy."""
    from dgpo import tiny
    from dgpo.config import TinyPolicy

    return tiny.checkpoint(TinyPolicy(**SMALL["tiny"]))
