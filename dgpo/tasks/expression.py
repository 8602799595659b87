"""Arithmetic in + − * / and parentheses over positive integers, read exactly: what verifies an answer of `countdown`.

    sum      = product (("+" | "-") product)*
    product  = atom (("*" | "/") atom)*
    atom     = digits | "(" sum ")"

There is no unary sign and no space. Values are Fractions. `form` is the same for expressions that differ only in the
order of summands or factors and in parentheses without effect, so that distinct solutions can be counted.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

LONGEST = 100  # characters: bounds the depth of parentheses and the size of numbers
_TOKEN = re.compile(r"[0-9]+|[-+*/()]")


@dataclass(frozen=True)
class Expression:
    """`numbers` in the order of the text; the `parts` are (sign, form) of its summands or of its factors."""

    value: Fraction
    numbers: tuple[int, ...]
    operator: str  # "+", "*", or "" of a single number
    parts: tuple[tuple[str, str], ...]

    @property
    def form(self) -> str:
        """One text for all orders of summands and factors: `2*(3+1)` and `(1+3)*2` are `*2*(+1+3)`."""
        return "".join(sign + part for sign, part in sorted(self.parts))


def parse(text: str) -> Expression:
    """The expression that `text` is. Raises ValueError for anything else and for a division by zero."""
    if len(text) > LONGEST:
        raise ValueError(f"an expression of {len(text)} characters; at most {LONGEST} are read")
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != text:
        raise ValueError(f"{text!r} has characters other than digits, + - * / and parentheses")
    found, end = _chain(tokens, 0, "+-")
    if end < len(tokens):
        raise ValueError(f"{text!r} does not end after an expression: {tokens[end]!r} follows")
    return found


def _chain(tokens: Sequence[str], start: int, operators: str) -> tuple[Expression, int]:
    """The sum ("+-") or product ("*/") that begins at `start`, and where it ends."""

    def operand(place: int) -> tuple[Expression, int]:
        return _chain(tokens, place, "*/") if operators == "+-" else _atom(tokens, place)

    found, end = operand(start)
    while end < len(tokens) and tokens[end] in operators:
        sign = tokens[end]
        right, end = operand(end + 1)
        found = _combine(found, sign, right)
    return found, end


def _atom(tokens: Sequence[str], place: int) -> tuple[Expression, int]:
    token = tokens[place] if place < len(tokens) else "its end"
    if token == "(":
        inner, end = _chain(tokens, place + 1, "+-")
        if end == len(tokens) or tokens[end] != ")":
            raise ValueError("a parenthesis is not closed")
        return inner, end + 1
    if not token.isdigit():
        raise ValueError(f"an expression has {token!r} where a number must stand")
    return Expression(Fraction(int(token)), (int(token),), "", (("", str(int(token))),)), place + 1


def _combine(left: Expression, sign: str, right: Expression) -> Expression:
    operator, inverse = ("+", "-") if sign in "+-" else ("*", "/")
    if sign == "/" and right.value == 0:
        raise ValueError("a division by zero")
    value = {"+": Fraction.__add__, "-": Fraction.__sub__, "*": Fraction.__mul__, "/": Fraction.__truediv__}[sign](
        left.value, right.value
    )
    flipped = {operator: inverse, inverse: operator}
    terms = _parts(right, operator)
    if sign == inverse:
        terms = tuple((flipped[s], form) for s, form in terms)
    return Expression(value, left.numbers + right.numbers, operator, _parts(left, operator) + terms)


def _parts(expression: Expression, operator: str) -> tuple[tuple[str, str], ...]:
    """The summands ("+") or factors ("*") of an expression; one of the other kind is a single part."""
    if expression.operator == operator:
        return expression.parts
    form = expression.form
    return ((operator, f"({form})" if expression.operator else form),)
