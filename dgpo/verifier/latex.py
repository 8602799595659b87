"""math-verify's reader of LaTeX, made three to four times as fast.

Its ANTLR parser looks for every decision at the whole stack of rules (LL). Looking at the rule at hand only (SLL) may
fail where LL does not, and agrees with it where it does not fail; so SLL comes first, and LL when that fails. It fails
at every letter with a power, which the grammar can also begin as x^2_1; braces round the letter decide that.
"""

import re

from antlr4.atn.PredictionMode import PredictionMode
from latex2sympy2_extended import latex2sympy2

_Reader = latex2sympy2._Latex2Sympy
_parse, _create_parser = _Reader.parse, _Reader.create_parser
_NAME = re.compile(r"(?:\\[a-zA-Z]+|[a-zA-Z])(?=(\s*\^)?)")
_LETTERS = {*"abcijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", r"\pi", r"\theta"}  # d, e, f, g and h can be more
_INDEX_BEHIND = re.compile(r"(?:\}|\^\s*(?:\\[a-zA-Z]+|.))\s*_")  # x^2_1: braces would lose the index


def install() -> None:
    """Let math-verify in this process read in two stages."""
    _Reader.parse, _Reader.create_parser = _parse_in_two_stages, _create_parser_of_stage


def _parse_in_two_stages(self, text: str):
    self.stage = PredictionMode.SLL
    try:
        return _parse(self, text if _INDEX_BEHIND.search(text) else _NAME.sub(_braced, text))
    except Exception:  # noqa: BLE001 (it raises Exception itself for every syntax error)
        self.stage = PredictionMode.LL
        return _parse(self, text)


def _braced(name: re.Match) -> str:
    return f"{{{name[0]}}}" if name[1] and name[0] in _LETTERS else name[0]


def _create_parser_of_stage(self, text: str):
    parser = _create_parser(self, text)
    parser._interp.predictionMode = self.stage
    return parser
