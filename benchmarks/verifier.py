"""How many answers a second does the verifier judge?

    python -m benchmarks.verifier FOLDER        a folder of problem files (.jsonl)

Groups of eight answers to one reference, as training has them: half of them right, in some other way of writing.
Then 2,000 references against themselves and against another's answer, and math-verify alone in the same worker.
In CPU time of all processes, since other work on the machine would spoil wall time: what two idle cores would do.
"""

import json
import os
import random
import sys
from pathlib import Path

from dgpo.data.files import answer_text
from dgpo.verifier import Verifier, literals, notation


def main(folder: str) -> None:
    rows = [json.loads(line) for path in sorted(Path(folder).glob("*.jsonl")) for line in path.open(encoding="utf-8")]
    golds = sorted({answer_text(row["answer"]) for row in rows if row.get("answer")})
    random.Random(0).shuffle(golds)
    plain = {gold: literals.value(notation.normalise(gold)) is not None for gold in golds}
    with Verifier(workers=2) as verifier:
        verifier.verify_many([("x", r"\boxed{y}"), ("x", r"\boxed{z}")])  # both workers have started
        for name, chosen in (("numbers", True), ("expressions", False)):
            some = [gold for gold in golds if plain[gold] == chosen][:400]
            pairs = [(gold, rf"\boxed{{{a}}}") for i, gold in enumerate(some) for a in _answers(gold, some, i)]
            each = _spent(lambda pairs=pairs: verifier.verify_many(pairs)) / len(pairs)
            print(f"{name}: {len(pairs)} answers, {1e3 * each:.2f} CPU ms each, {2 / each:.0f} a second")
        some = golds[:2000]
        for name, answers in (("themselves", some), ("another's answer", [*some[1:], some[0]])):
            pairs = [(gold, rf"\boxed{{{answer}}}") for gold, answer in zip(some, answers, strict=True)]
            spent = [_spent(lambda how=how, pairs=pairs: how(pairs)) for how in (verifier.verify_many, verifier.plain)]
            print(f"references against {name}: {spent[0]:.1f} CPU s, 1/{spent[1] / spent[0]:.1f} of math-verify's")


def _answers(gold: str, others: list[str], i: int) -> list[str]:
    wrong = [others[(i + k) % len(others)] for k in (1, 7, 31)]
    return [gold, f"0+{gold}", f"({gold})", f"{gold} ", f"{gold}+1", *wrong]


def _spent(work) -> float:
    before = _cpu_seconds(os.getpid())
    work()
    return _cpu_seconds(os.getpid()) - before


def _cpu_seconds(pid: int) -> float:
    """Of a process and all below it, also of those that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    children = [c for task in Path(f"/proc/{pid}/task").glob("*/children") for c in task.read_text().split()]
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK") + sum(map(_cpu_seconds, map(int, children)))


if __name__ == "__main__":
    main(sys.argv[1])
