"""A worker of the verifier that judges by text alone, so that a test can have hundreds of them.

A reference `FILE: x` makes it write FILE.judging and wait for FILE.go, as a hard case would keep it busy.
"""

import sys
import time
from pathlib import Path
from types import SimpleNamespace

from dgpo.verifier import Verdict, worker


def judge(gold: str, answer: str) -> Verdict:
    file, colon, text = gold.rpartition(": ")
    if colon:
        Path(f"{file}.judging").touch()
        while not Path(f"{file}.go").exists():
            time.sleep(0.002)
    return Verdict.correct if text == answer else Verdict.wrong


sys.modules["dgpo.verifier.judge"] = SimpleNamespace(judge=judge, warm_up=lambda: None)
main = worker.main
