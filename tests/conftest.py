"""What all tests share: an environment, small settings and a warmed-up policy."""

import os
import shutil
import signal
import tempfile

# Before the first import of a library that reads them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The workers of pytest-xdist inherit the first process's folder, so that each policy is warmed up once.
os.environ["DGPO_CACHE"] = os.environ.setdefault("DGPO_TEST_CACHE", f"{tempfile.gettempdir()}/dgpo-tests-{os.getpid()}")

import pytest
import torch
from hypothesis import settings
from running import SMALL

# A shell that starts the tests in the background lets them ignore Ctrl-C; processes started here would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
settings.register_profile("dgpo", deadline=None, max_examples=60, derandomize=True)
settings.load_profile("dgpo")


def pytest_unconfigure():
    if os.environ["DGPO_CACHE"].endswith(f"dgpo-tests-{os.getpid()}"):
        shutil.rmtree(os.environ["DGPO_CACHE"], ignore_errors=True)


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
    from dgpo.config_parts import TinyPolicy
    from dgpo.model import tiny

    return tiny.checkpoint(TinyPolicy(**SMALL["tiny"]))


@pytest.fixture(scope="module")
def verifier():
    """A pool of two workers."""
    from dgpo.verifier import Verifier

    with Verifier(workers=2) as pool:
        yield pool
