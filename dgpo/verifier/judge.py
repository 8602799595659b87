"""One answer against its reference, with math-verify. Runs only inside a worker: hostile input can hang it."""

from math_verify import LatexExtractionConfig, parse
from math_verify import verify as math_verify

from dgpo.verifier.answer import Verdict

_LATEX = [LatexExtractionConfig()]


def judge(gold: str, answer: str) -> Verdict:
    """The verdict on a normalised answer."""
    right, given = _read(gold), _read(answer)
    if not given:
        return Verdict.unparsed
    same = math_verify(right, given, timeout_seconds=None)
    return Verdict.correct if same else Verdict.wrong


def warm_up() -> None:
    judge(r"\frac{1}{2}", r"\sqrt{2}+3x")


def _read(text: str) -> list:
    # boxed: passed raw, math-verify reads 8\sqrt{10} as 8
    return parse(rf"\boxed{{{text}}}", _LATEX, parsing_timeout=None, fallback_mode="no_fallback")
