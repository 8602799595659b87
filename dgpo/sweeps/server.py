"""Imported by the process that forks the runs of a sweep, before all else: it ends with the sweep, and not by Ctrl-C.

The runs it forks ignore Ctrl-C too: it is for the sweep, which ends them.
"""

import os
import signal

from dgpo import lifetimes

lifetimes.end_with(os.getppid())
signal.signal(signal.SIGINT, signal.SIG_IGN)
