"""Is this answer right? One verdict for every completion, from worker processes that can be killed.

    verify("1/2", r"... so it is \\boxed{0.5}.")                 Verdict.correct
    with Verifier(workers=2) as verifier:
        verdicts = verifier.verify_many(pairs)                  pairs of (gold, completion)

A completion is judged by the content of its last closed box and by nothing else (`answer.py`). Both sides are brought
to one way of writing (`notation.py`) and plain numbers are compared exactly at once (`literals.py`). The rest goes to a
worker (`pool.py`, `worker.py`), where lists, intervals and units are taken apart (`forms.py`, `compare.py`,
`quantities.py`) and the expressions in them are read by math-verify and compared by value (`judge.py`, `values.py`).

`python -m dgpo.verifier FILE` lists where math-verify alone would decide otherwise.

Equal means equal: 0.333333 is not 1/3, 1010_3 is not 1010_2, 5 m is not 5 cm. Forgiven is what the question
usually says itself: a missing unit, `x =` in front, a missing per cent sign.
"""

from dgpo.verifier.answer import Verdict, final_answer
from dgpo.verifier.pool import Verifier, VerifierError, verify

__all__ = ["Verdict", "Verifier", "VerifierError", "final_answer", "verify"]
