"""A child that never ends by itself: it stays in a C call that lets no thread of Python have a turn."""

import ctypes
import os


def main() -> None:
    print(os.getpid(), flush=True)
    ctypes.PyDLL(None).sleep(10**6)
