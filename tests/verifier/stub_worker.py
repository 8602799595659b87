"""A worker of the verifier that takes an answer with the reference's characters for right: a test can have hundreds.

A reference that begins with `h`, as `h7+x`, is a hard case: the judge makes the file h7.judging in the folder $STUB and
is busy until there is a file h7.go.
"""

import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from dgpo.verifier import Verdict, worker


def judge(gold: str, answer: str) -> Verdict:
    if gold.startswith("h"):
        hard = Path(os.environ["STUB"]) / gold.split("+")[0]
        hard.with_suffix(".judging").touch()
        while not hard.with_suffix(".go").exists():
            time.sleep(0.002)
    return Verdict.correct if sorted(gold) == sorted(answer) else Verdict.wrong


sys.modules["dgpo.verifier.judge"] = SimpleNamespace(judge=judge, warm_up=lambda: None)
main = worker.main
