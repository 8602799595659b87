"""DGPO with steady draws (see alike.py), for ranks that a launcher starts: `method="steady:Steady"`.

Once the path STEADY_AT exists, the rank STEADY_RANK (without it, each) stays where it is, or with STEADY_DIES dies.
"""

import os
import signal
import time
from pathlib import Path

from alike import steady_draws

from dgpo.methods.clipping import DGPO

if "RANK" in os.environ:  # not in a process that only looks the method up: it would change all its tests
    steady_draws()


class Steady(DGPO):
    def log_weight(self, log_ratio, region):
        if os.environ.get("STEADY_RANK") in (None, os.environ.get("RANK")) and _reached():
            os.kill(os.getpid(), signal.SIGKILL) if os.environ.get("STEADY_DIES") else time.sleep(1000)
        return super().log_weight(log_ratio, region)


def _reached() -> bool:
    return "STEADY_AT" in os.environ and Path(os.environ["STEADY_AT"]).exists()
