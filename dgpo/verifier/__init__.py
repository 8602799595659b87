"""Is this answer right? One verdict for every completion, from worker processes that can be killed.

    verify("1/2", r"... so it is \\boxed{0.5}.")                 Verdict.correct
    with Verifier(workers=2) as verifier:
        verdicts = verifier.verify_many(pairs)                  pairs of (gold, completion)

A completion is judged by the content of its last closed box and by nothing else (`answer.py`). Both sides are brought
to one way of writing (`notation.py`) and plain numbers are compared exactly at once (`literals.py`). The rest goes to a
worker (`pool.py`, `worker.py`), where lists, intervals and units are taken apart (`forms.py`, `compare.py`,
`quantities.py`) and the expressions in them are read by math-verify and compared by value (`judge.py`, `values.py`).

`python -m dgpo.verifier FILE` lists where math-verify alone would decide otherwise.
"""

from typing import TYPE_CHECKING

from dgpo.verifier.answer import Verdict, final_answer

if TYPE_CHECKING:
    from dgpo.verifier.pool import Verifier, VerifierError, verify

__all__ = ["Verdict", "Verifier", "VerifierError", "final_answer", "verify"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'dgpo.verifier' has no attribute {name!r}")
    from dgpo.verifier import pool  # what only counts verdicts does without it

    return getattr(pool, name)
