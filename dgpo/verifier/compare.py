"""Whether two answers of the same shape, or of two shapes that say the same, are equal.

Order counts in points and intervals and not in lists and sets; brackets count in intervals; names count where both
sides give one. What the shapes hold is compared by two functions that the caller passes in.
"""

import re
from collections.abc import Callable

from dgpo.verifier.forms import MAX_ITEMS, Atom, Equation, Many, Matrix, Named, Range, Ratio, Row, Union, Word

_EMPTY = Atom(r"\emptyset")  # of which {∅} is not another way of writing
_LETTER = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")


def equal(gold, given, same: Callable[[str, str], bool], same_equation: Callable[[str, str], bool]) -> bool:
    """Whether two forms say the same; `same` compares expressions, `same_equation` equations, each given as text."""

    def eq(a, b):
        return equal(a, b, same, same_equation)

    def each(a, b):
        return len(a) == len(b) and all(map(eq, a, b))

    match gold, given:
        case Word(), Word():
            if gold.text == given.text:
                return True
            return not (gold.sure or given.sure or " " in gold.text + given.text) and same(gold.raw, given.raw)
        case Named(), Named():
            renamed = _renamed(gold, given)
            return renamed is not None and eq(gold.form, renamed)
        case Many(), Many():
            return _match(gold.items, given.items, eq, loose=gold.braces and given.braces)
        case Many(items), Row():
            if all(isinstance(i, Named) for i in items):
                return each(_by_name(items), given.items)
            return not gold.braces and given.left + given.right in ("()", "[]") and each(items, given.items)
        case Row(), Many(items):
            if all(isinstance(i, Named) for i in items):
                return each(gold.items, _by_name(items))
            return not given.braces and gold.left + gold.right == "()" and each(gold.items, items)
        case Range(), Range() if gold.name and given.name and gold.name != given.name:
            return False
        case ((Row() | Range()), (Row() | Range())):
            return (gold.left, gold.right) == (given.left, given.right) and each(gold.items, given.items)
        case Union(), Union():
            return _match(gold.parts, given.parts, eq, loose=False)
        case Union(), Many() if not given.braces:
            return _match(gold.parts, given.items, eq, loose=False)
        case Many(), Union() if not gold.braces:
            return _match(gold.items, given.parts, eq, loose=False)
        case Ratio(), Ratio():
            a, b = gold.items, given.items
            if any(re.match(r"0[0-9]|0+$|.*\\text", i.text) for i in (*a, *b)):  # 05:00 and 5:10 pm are times
                return each(a, b)
            cross = zip(a, b, strict=False)
            return len(a) == len(b) and all(
                same(f"({x.text}) \\cdot ({b[0].text})", f"({y.text}) \\cdot ({a[0].text})") for x, y in cross
            )
        case Matrix(), Matrix():
            return len(gold.rows) == len(given.rows) and all(map(each, gold.rows, given.rows))
        case Matrix(rows), Row():
            flat = _vector(rows)
            return flat is not None and given.left + given.right in ("()", "[]") and each(flat, given.items)
        case Row(), Matrix(rows):
            flat = _vector(rows)
            return flat is not None and gold.left + gold.right == "()" and each(gold.items, flat)
        case Equation(), Equation():
            return same_equation(gold.text, given.text)
        case Atom(), Named("C", Row(_, _, (Atom(n), Atom(k)))):
            return same(gold.text, rf"\binom{{{n}}}{{{k}}}")
        case Named(), Equation():
            return isinstance(gold.form, Atom) and same_equation(f"{gold.name}={gold.form.text}", given.text)
        case Equation(), Named():
            return isinstance(given.form, Atom) and same_equation(gold.text, f"{given.name}={given.form.text}")
        case Named(), _:
            return eq(gold.form, given)
        case _, Named():
            return eq(gold, given.form)
        case Many(items), _ if len(items) == 1:
            return given != _EMPTY and eq(items[0], given)
        case _, Many(items) if len(items) == 1:
            return gold != _EMPTY and eq(gold, items[0])
        case Equation(_, (first, *_, last)), Atom():  # 0.56 = 56%
            return same(first, last) and eq(Atom(first), given)
        case _, Equation(_, sides):  # 2+3 = 5: an answer only if it is true
            return all(eq(gold, Atom(s)) for s in sides)
        case ((Atom() | Word() | Ratio()), (Atom() | Word() | Ratio())):
            if any(isinstance(f, Word) and f.sure for f in (gold, given)):
                return False
            return same(_text(gold), _text(given))
    return False


def _text(form) -> str:
    match form:
        case Word():
            return form.raw
        case Ratio(items):
            first, *rest = (f"({i.text})" for i in items)
            return first + "".join(f" / {i}" for i in rest) if len(rest) == 1 else ":".join(i.text for i in items)
    return form.text


def _renamed(gold: Named, given: Named):
    """What `given` says of the name that `gold` has; None if they name different things.

    f(x) = 2x says what f(n) = 2n says, and y = 2x what f(x) = 2x says.
    """
    if gold.name == given.name or {gold.name, given.name} <= {"y", "f(x)"}:
        return given.form
    a, b = (re.fullmatch(r"(.+)\(([a-zA-Z])\)", form.name) for form in (gold, given))
    if not a or not b or a[1] != b[1] or not isinstance(given.form, Atom):
        return None
    if a[2] in _LETTER.findall(given.form.text):
        return None
    return Atom(_LETTER.sub(lambda m: a[2] if m[0] == b[2] else m[0], given.form.text))


def _by_name(items):
    """The values of x = 1, y = 2, ordered by name as a point would list them."""
    names = [i.name for i in items]
    return tuple(i.form for i in sorted(items, key=lambda i: i.name)) if len(set(names)) == len(names) else tuple(items)


def _vector(rows):
    """The entries of a matrix of one column or one row."""
    if len(rows) == 1:
        return rows[0]
    return tuple(row[0] for row in rows) if all(len(row) == 1 for row in rows) else None


def _match(gold, given, eq, loose: bool) -> bool:
    """Whether every item has its partner; `loose` lets repeated items of a set share one."""
    if max(len(gold), len(given)) > MAX_ITEMS or (not loose and len(gold) != len(given)):
        return False

    def same(item, other):  # {1} and {2} are not 1 and 2
        return _is_set(item) == _is_set(other) and eq(item, other)

    left = list(given)
    for item in gold:
        index = next((i for i, other in enumerate(left) if same(item, other)), None)
        if index is None:
            return loose and any(same(item, other) for other in given)
        left.pop(index)
    return not left or all(any(same(item, other) for item in gold) for other in left)


def _is_set(form) -> bool:
    return isinstance(form, Many) and form.braces
