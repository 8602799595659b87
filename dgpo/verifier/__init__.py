"""Is this answer right? One verdict for every completion, from worker processes that can be killed.

    verify("1/2", r"... so it is \\boxed{0.5}.")                 Verdict.correct
    with Verifier(workers=2) as verifier:
        verdicts = verifier.verify_many(pairs)                  pairs of (gold, completion)

Only the content of a completion's last closed box counts (`answer.py`). `notation.py` brings both sides to one way of
writing, and `literals.py` compares plain numbers exactly at once. A worker (`pool.py`, `worker.py`) takes the rest:
it takes lists, intervals and units apart (`forms.py`, `compare.py`, `quantities.py`), has math-verify read the
expressions in them, and compares those by value (`judge.py`, `values.py`).

`python -m dgpo.verifier FILE` lists the answers on which math-verify alone disagrees.
"""

from typing import TYPE_CHECKING

from dgpo.verifier.answer import Verdict, final_answer

if TYPE_CHECKING:
    from dgpo.verifier.pool import Verifier, VerifierError, verify

__all__ = ["Verdict", "Verifier", "VerifierError", "final_answer", "verify"]


def __getattr__(name: str):
    if name not in __all__:
        raise AttributeError(f"module 'dgpo.verifier' has no attribute {name!r}")
    from dgpo.verifier import pool  # code that only counts verdicts never loads it

    return getattr(pool, name)
