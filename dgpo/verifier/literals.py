"""Plain numbers, compared exactly: most answers are integers and need neither a worker nor algebra."""

import re
from fractions import Fraction

_DOLLARS = re.compile(r"^([+-]?)\s*\$\s*")
_INTEGER = re.compile(r"([+-]?)\s*(?:0*([0-9]+)|0*([0-9]{1,3}(?:,[0-9]{3})+)|0*([1-9][0-9]{0,2}(?: [0-9]{3})+))")
_DECIMAL = re.compile(r"([+-]?)\s*([0-9]*|[0-9]{1,3}(?:,[0-9]{3})+)\.([0-9]+)")
_RATIO = re.compile(r"([+-]?)\s*(?:\\frac\s*\{\s*([+-]?[0-9]+)\s*\}\s*\{\s*([+-]?[0-9]+)\s*\}|([0-9]+)\s*/\s*([0-9]+))")
_MIXED = re.compile(
    r"([+-]?)\s*([0-9]+)\s*(?:\\frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}|(?<=[0-9])\s+([0-9]+)\s*/\s*([0-9]+))"
)
_POWER = re.compile(r"(.*?)\s*\\(?:times|cdot)\s*10\s*\^\s*(?:\{\s*([+-]?[0-9]{1,4})\s*\}|([0-9]))")
_REPEATING = re.compile(
    r"([+-]?)\s*([0-9]*)\.([0-9]*)\s*(?:\\(?:overline|bar)\s*\{?([0-9]+)\}?|\(([0-9]+)\)|\\dot\s*\{?([0-9])\}?)"
)
_DOTS = re.compile(r"([+-]?)\s*([0-9]*)\.([0-9]*?)([0-9]+?)\4{2,}\s*\\ldots")  # 0.1666…: a block at least three times


def equal(a: str, b: str) -> bool | None:
    """Whether two normalised texts are the same number; None unless both are plain numbers."""
    left = value(a)
    if left is None:
        return None
    right = value(b)
    return None if right is None else left == right


def value(text: str) -> int | Fraction | str | None:
    """The exact number that a normalised text writes; None if it is anything else.

    A long integer is returned as its digits, since Python refuses to convert more than 4,300.
    """
    text = _DOLLARS.sub(r"\1", text.strip())
    if match := _INTEGER.fullmatch(text):
        digits = re.sub("[, ]", "", match[2] or match[3] or match[4])
        if len(digits) > 4000:
            return match[1].replace("+", "") + digits.lstrip("0")
        return int(match[1] + digits)
    if len(text) > 1000:
        return None
    if match := _DECIMAL.fullmatch(text):
        return _decimal(*match.groups())
    if match := _RATIO.fullmatch(text):
        sign, *parts = match.groups()
        return _ratio(sign, *(parts[:2] if parts[0] else parts[2:]))
    if match := _MIXED.fullmatch(text):
        sign, whole, *parts = match.groups()
        part = _ratio("", *(parts[:2] if parts[0] else parts[2:]))
        return None if part is None else (int(whole) + part) * (-1 if sign == "-" else 1)
    if match := _REPEATING.fullmatch(text):
        sign, whole, fixed, *blocks = match.groups()
        return _repeating(sign, whole, fixed, next(filter(None, blocks)))
    if match := _DOTS.fullmatch(text):
        return _repeating(*match.groups())
    if (match := _POWER.fullmatch(text)) and isinstance(factor := value(match[1]), int | Fraction):
        return factor * Fraction(10) ** int(match[2] or match[3])
    return None


def _decimal(sign: str, whole: str, part: str) -> Fraction:
    return Fraction(int(sign + (whole.replace(",", "") or "0") + part), 10 ** len(part))


def _ratio(sign: str, top: str, bottom: str) -> Fraction | None:
    return None if int(bottom) == 0 else Fraction(int(top), int(bottom)) * (-1 if sign == "-" else 1)


def _repeating(sign: str, whole: str, fixed: str, block: str) -> Fraction:
    scale = 10 ** len(fixed)
    part = Fraction(int(block), (10 ** len(block) - 1) * scale)
    return (Fraction(int((whole or "0") + fixed), scale) + part) * (-1 if sign == "-" else 1)
