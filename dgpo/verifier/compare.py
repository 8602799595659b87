"""Whether two answers are equal: of the same shape, or of two shapes that mean the same.

Order counts in points and intervals, but not in lists and sets; brackets count in intervals; names count where both
sides give one. The caller passes in the functions that compare what the shapes hold.
"""

import re
from collections.abc import Callable

from dgpo.verifier import forms
from dgpo.verifier.brackets import split
from dgpo.verifier.forms import Atom, Equation, Many, Matrix, Named, Range, Ratio, Row, Union, Word

_EMPTY = Atom(r"\emptyset")  # {∅} is something else
_VARIABLE = re.compile(
    r"\\(?:alpha|beta|gamma|delta|epsilon|theta|lambda|mu|omega|phi|rho|sigma|tau|psi|xi|eta|text)(?![a-zA-Z])|\\(?:min|max)$"
    r"|(?<![a-zA-Z\\])(?![ei](?![a-zA-Z]))[a-zA-Z]"
)
# marks of a side that is one quantity: a sum, a limit, P(…), |A|; and the letters of a curve
_QUANTITY = re.compile(
    r"\\(?:sum|prod|i*int|oint|lim|det)(?![a-zA-Z])|\\frac\s*\{\s*(?:d|\\partial)"
    r"|(?:P|E|Var|\\mathbb\{[EP]\}|\\text\{(?:Var|Pr)\})\s*[(\[][^()\[\]]*[A-Z][^()\[\]]*[)\]]$|\\?\|[A-Z\s\\a-z]*\|$"
)
_PHRASE = re.compile(r"(?<=.)\\text\{[^{}]*\}")
_CURVE = re.compile(r"(?<![a-zA-Z\\])[xyzrt](?![a-zA-Z])|\\(?:theta|rho|phi)(?![a-zA-Z])")
_LETTER = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")


Compare = Callable[[str, str], bool]


def equal(  # noqa: C901 (a table of pairs of shapes)
    gold, given, same: Compare, same_equation: Compare, same_order: Callable[[forms.Order, forms.Order], bool]
) -> bool:
    """Whether two forms mean the same. The functions compare expressions and equations, both as text, and orders."""

    def eq(a, b):
        return equal(a, b, same, same_equation, same_order)

    def each(a, b):
        return len(a) == len(b) and all(map(eq, a, b))

    match gold, given:
        case Word(), Word():
            if gold.text == given.text:
                return True
            if gold.raw.isupper() and given.raw.isupper():  # ABCD is an order, not a product
                return False
            return not (gold.sure or given.sure or " " in gold.text + given.text) and same(gold.raw, given.raw)
        case Many(items), Word() if given.raw.isupper() and len(items) > 1:  # A, C and D as ACD
            return sorted(getattr(i, "text", "") for i in items) == sorted(given.raw)
        case Word(), Many(items) if gold.raw.isupper():
            return gold.raw == "".join(getattr(i, "text", "-") for i in items)
        case Named(), Named():
            renamed = _renamed(gold, given)
            if renamed is not None:
                return eq(gold.form, renamed)
            sides = gold.form, given.form
            plain = all(isinstance(side, Atom | Word) for side in sides)
            return plain and same_equation(*(f"{n.name}={_text(n.form)}" for n in (gold, given)))  # x = y, y = x
        case Many(), Many():
            points = all(isinstance(item, Row) for item in gold.items + given.items)
            return _match(
                gold.items,
                _otherwise(gold.items, given.items, eq) if points else given.items,
                eq,
                loose=points or (gold.braces and given.braces),
            )
        case (Many() as many, Row() as row) | (Row() as row, Many() as many):
            items = _by_name(many.items)
            if not items and (many.braces or row.left + row.right not in _points(row is given)):
                return False
            items = items or many.items
            return each(items, row.items) if many is gold else each(row.items, items)
        case Range(), Range() if gold.name and given.name and gold.name != given.name:
            return bool(gold.order and given.order) and same_order(gold.order, given.order)
        case ((Range() | forms.Order()), (Range() | forms.Order())) if not (
            isinstance(gold, Range) and isinstance(given, Range)
        ):
            a, b = (form.order if isinstance(form, Range) else form for form in (gold, given))
            return bool(a and b) and same_order(a, b)
        case forms.Residue(), forms.Residue():
            named = not gold.name or not given.name or gold.name == given.name
            return named and gold.modulus == given.modulus and (gold.number - given.number) % gold.modulus == 0
        case forms.Residue(), Atom():
            return same(str(gold.number), given.text)
        case Atom(), forms.Residue():  # 3 (mod 7) is 3, whatever mod means here
            return 0 <= given.number < given.modulus and same(gold.text, str(given.number))
        case ((Row() | Range()), (Row() | Range())):
            return (gold.left, gold.right) == (given.left, given.right) and each(gold.items, given.items)
        case ((Union(a) | Many(a, False)), (Union(b) | Many(b, False))):
            return _match(a, b, eq, loose=False)
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
        case Matrix(rows), Row("[", "]", items) if all(isinstance(item, Row) for item in items):
            return eq(gold, Matrix(tuple(item.items for item in items)))
        case (Matrix(rows), Row() as row) | (Row() as row, Matrix(rows)):
            flat = _vector(rows)
            if flat is None or row.left + row.right not in _points(row is given):
                return False
            return each(flat, row.items) if row is given else each(row.items, flat)
        case ((Row() | Matrix()), Atom()) if vector := forms.unit_vectors(given.text):
            return eq(gold, vector)
        case Atom(), (Row() | Matrix()) if vector := forms.unit_vectors(gold.text):
            return eq(vector, given)
        case Equation(), Equation():
            return same_equation(gold.text, given.text)
        case Atom(), Named(("C" | "P" | "A") as what, Row(_, _, (Atom(n), Atom(k)))):
            return same(gold.text, rf"\binom{{{n}}}{{{k}}}" + rf" \cdot ({k})!" * (what != "C"))
        case Named(), Equation():
            return isinstance(gold.form, Atom | Word) and same_equation(f"{gold.name}={_text(gold.form)}", given.text)
        case Equation(), Named():
            return isinstance(given.form, Atom | Word) and same_equation(gold.text, f"{given.name}={_text(given.form)}")
        case Named(), _:
            return eq(gold.form, given)
        case _, Named():
            return eq(gold, given.form)
        case Many(items), _ if len(items) == 1:
            return given != _EMPTY and eq(items[0], given)
        case _, Many(items) if len(items) == 1:
            return gold != _EMPTY and eq(gold, items[0])
        case Equation(_, (first, *_, last)), Atom() if not _VARIABLE.search(first):  # 0.56 = 56%
            return same(first, last) and eq(Atom(first), given)
        case Equation(_, (*sides, "0")), _ if not any(map(_QUANTITY.match, sides)):  # a^2 + b = 0
            return False
        case Equation(_, sides), _ if all(_QUANTITY.match(s) or not _CURVE.search(s) for s in sides[:-1]):
            value = _ending(gold, eq)
            return value is not None and eq(value, given)
        case _, Equation():
            value = _ending(given, eq)
            return value is not None and eq(gold, value)
        case ((Atom() | Word() | Ratio()), (Atom() | Word() | Ratio())):
            if any(isinstance(f, Word) and f.sure for f in (gold, given)):
                return False
            return same(_text(gold), _text(given))
    return False


def _ending(statement: Equation, eq):
    """The last value of a statement such as det A = 6 or m+n = 4+5 = 9; None for 3 = 5 and f(x+1) = 2x.

    Every other side must be that value or a name for it: it has a letter, and is one quantity if the value has
    letters.
    """
    value = forms.read(statement.sides[-1])
    constant = not _VARIABLE.search(statement.sides[-1])

    def names_it(side):
        one = _QUANTITY.match(side) and len(split(side, "+")) == len(split(side, "-")) == 1
        named = _VARIABLE.search(_PHRASE.sub("", side)) and not re.match(r"\\text\{[^{}]*[0-9]", side)  # 6 cm is not 5
        return named and (constant or one)

    return value if all(names_it(side) or eq(value, forms.read(side)) for side in statement.sides[:-1]) else None


def _text(form) -> str:
    match form:
        case Word():
            return form.raw
        case Ratio(items):
            first, *rest = (f"({i.text})" for i in items)
            return first + "".join(f" / {i}" for i in rest) if len(rest) == 1 else ":".join(i.text for i in items)
    return form.text


def _renamed(gold: Named, given: Named):
    """The form of `given` in the variable names of `gold`; None if they name different things.

    f(x) = 2x means the same as f(n) = 2n, and y = 2x the same as f(x) = 2x.
    """
    if gold.name == given.name or {gold.name, given.name} <= {"y", "f(x)"}:
        return given.form
    a, b = (re.fullmatch(r"(.+)\(([a-zA-Z])\)", form.name) for form in (gold, given))
    if not a or not b or a[1] != b[1] or not isinstance(given.form, Atom):
        return None
    if a[2] in _LETTER.findall(given.form.text):
        return None
    return Atom(_LETTER.sub(lambda m: a[2] if m[0] == b[2] else m[0], given.form.text))


def _by_name(items) -> tuple:
    """The values of x = 1, y = 2 in the order of their names, as in a point; empty if some have no name."""
    if not all(isinstance(i, Named) for i in items):
        return ()
    return (
        tuple(i.form for i in sorted(items, key=lambda i: i.name))
        if len({i.name for i in items}) == len(items)
        else items
    )


def _points(given: bool) -> tuple[str, ...]:
    """The brackets that a point may have; a reference in square brackets is an interval."""
    return ("()", "[]") if given else ("()",)


def _vector(rows):
    """The entries of a matrix of one column or one row."""
    if len(rows) == 1:
        return rows[0]
    return tuple(row[0] for row in rows) if all(len(row) == 1 for row in rows) else None


def _match(gold, given, eq, loose: bool) -> bool:
    """Whether every item has a partner of its own; with `loose`, repeated items of a set may share one."""
    if max(len(gold), len(given)) > forms.MAX_ITEMS or (not loose and len(gold) != len(given)):
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


def _otherwise(gold, given, eq):
    """The rows of `given` with "otherwise" replaced by the one condition of `gold` that no other row has."""
    conditions = [row.items[-1] for row in given]
    left = [row.items[-1] for row in gold if not any(eq(row.items[-1], c) for c in conditions)]
    other = [i for i, c in enumerate(conditions) if isinstance(c, Word) and c.text in ("otherwise", "else")]
    if len(left) != 1 or len(other) != 1:
        return given
    index = other[0]
    return (*given[:index], given[index]._replace(items=(*given[index].items[:-1], left[0])), *given[index + 1 :])


def _is_set(form) -> bool:
    return isinstance(form, Many) and form.braces
