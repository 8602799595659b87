"""One recorded run for all tests of its folder, and a copy of it to spoil."""

import shutil

import pytest
import running
from folders import Disk


@pytest.fixture(scope="package")
def recorded(tmp_path_factory):
    """A run of four steps with checkpoints of steps 2 and 4, and what it did to the disk."""
    folder = tmp_path_factory.mktemp("identity") / "run"
    with pytest.MonkeyPatch.context() as patch:
        disk = Disk(folder, patch)
        running.run(running.SMALL, run_dir=str(folder))
    return folder, disk.events


@pytest.fixture
def run(recorded, tmp_path):
    return shutil.copytree(recorded[0], tmp_path / "run")
