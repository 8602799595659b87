"""One finished sweep for all tests of sweeps."""

import pytest
from running import LEVELS, sweep_in

from dgpo.sweeps import execute, table


@pytest.fixture(scope="package")
def done(tmp_path_factory, checkpoint):
    """A finished sweep: two methods, two seeds, and a cell that diverges."""
    folder = tmp_path_factory.mktemp("sweeps") / "undisturbed"
    sweep = sweep_in(folder, factors={"method": {**LEVELS, "wild": {"method": "pg", "lr": 1e9}}})
    statuses = execute.execute(sweep, jobs=2)
    return sweep, statuses, table.collect(sweep)
