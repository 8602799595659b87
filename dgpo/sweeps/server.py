"""Imported first by the process that forks the runs of a sweep: it ends with the sweep, and ignores Ctrl-C.

The runs that it forks ignore Ctrl-C too: the sweep handles it, and ends them.
"""

import os
import signal

from dgpo import lifetimes

lifetimes.end_with(os.getppid())
signal.signal(signal.SIGINT, signal.SIG_IGN)
