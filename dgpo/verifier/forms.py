"""The shape of an answer: lists, sets, tuples, intervals, inequalities, matrices, assignments, words.

math-verify reads these too, but takes {2,1} for (1,2) and cannot match an inequality with an interval or ± with two
roots. So this module splits an answer at its commas, brackets and relation signs, and only the expressions that
remain are read as algebra.
"""

import itertools
import re
from collections import namedtuple
from fractions import Fraction

from dgpo.verifier import literals
from dgpo.verifier.brackets import closes, peel, scan, split, split_list

MAX_ITEMS = 64
_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_ONES = (_ONES + " seventeen eighteen nineteen").split()
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_WORDS = [*_ONES, *(f"{ten}-{one}".removesuffix("-zero") for ten in _TENS for one in _ONES[:10]), "hundred"]

_OR = re.compile(r"\\text\{\s*,?\s*or\s*,?\s*\}|\\(?:lor|vee)(?![a-zA-Z])|(?<![a-zA-Z])or(?![a-zA-Z])")
_NAME = re.compile(
    r"(?:\\text\{[a-zA-Z ]+\}|[a-zA-Z]|\\(?:alpha|beta|gamma|delta|theta|lambda|mu|omega|phi|rho|sigma|tau))"
    r"'*(?:_\s*(?:\{[^{}]*\}|[0-9a-zA-Z]))?"
    r"(?:\s*\(\s*(?:[a-zA-Z]|-?[0-9]+)(?:\s*,\s*(?:[a-zA-Z]|-?[0-9]+))*\s*\))?"  # f'_1(x, y), f(3)
    r"|\\angle [A-Z]+|(?:\\overline\{)?[A-Z]{2,3}\}?|\|\s*[A-Z]{1,2}\s*\|"  # ∠A, AB, |AB|
    r"|\([a-zA-Z](?:\s*,\s*(?:[a-zA-Z_0-9{}]+|\\[a-z]+))+\)"  # (x, y), (r, \theta)
)
_MATRIX = re.compile(
    r"^\\begin\{(?:[pbB]?matrix|smallmatrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{(?:[pbB]?matrix|smallmatrix|array)\}$"
)
_SCALED = re.compile(r"^([^&]*[^&+\-\s]|-)\s*(\\begin\{[pbB]?matrix\}.*)$")
_RESIDUE = re.compile(r"^(?:([^=]+?)\s*\\equiv\s*)?(-?[0-9]{1,30})\s*,?\s*\\pmod\s*\{\s*([0-9]{1,30})\s*\}$")
_CASES = re.compile(r"^\\begin\{cases\}(.*)\\end\{cases\}$")
_CONDITION = re.compile(r"^(?:\\text\{\s*(?:if|for|when|where)\s*\}|(?:if|for|when|where)(?![a-z]))\s*")
_TRANSPOSED = re.compile(r"(?<=[)\]}])\s*\^\s*\{?\s*(?:T|\\top|\\text\{T\}|\\intercal)\s*\}?$")
_POINT = re.compile(r"^[A-Z]\s*(?=\(.*,.*\)$)")
_SIZE = re.compile(r"^\|\s*([a-z])\s*((?:[+-][^|]*)?)\|$")
_RELATION = {r"\leq": "<=", r"\geq": ">=", "<": "<", ">": ">"}
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<="}
_WORD = re.compile(r"^[a-zA-Z][a-zA-Z'\- ]*$")
_ARTICLE = re.compile(r"^(?:an?|the) (?=[a-z]{3})", re.IGNORECASE)
_HOLES = re.compile(r"^\\mathbb\s*\{?R\}?\s*(?:\\setminus|\\backslash|-)\s*\\\{(.*)\\\}$")
_REALS = re.compile(
    r"^(?:\\mathbb\s*\{?R\}?(?:\s*[\^_]\s*\{?([+-])\}?)?|(?:\\text\{)?\s*(?:all )?(?:real numbers|reals)\s*\}?)$"
)


# The shapes. Expressions in them are text (str); everything else in them is a shape.
Atom = namedtuple("Atom", "text")  # an expression
Word = namedtuple(
    "Word", "text raw sure"
)  # a spelt word: as compared, and as written; sure: set as text, so not a product
Many = namedtuple("Many", "items braces", defaults=[False])  # in any order; braces: written as a set
Row = namedtuple("Row", "left right items")  # two or more in brackets: a point, a vector or an interval
Order = namedtuple("Order", "less more strict")  # an inequality between two expressions
# the interval that an inequality describes, the variable's `name` ("" if it has none), and the inequality itself
Range = namedtuple("Range", "name left right items order", defaults=[None])
Residue = namedtuple("Residue", "name number modulus")  # 3 (mod 7), of `name` ("" if it has none)
Union = namedtuple("Union", "parts")
Ratio = namedtuple("Ratio", "items")
Matrix = namedtuple("Matrix", "rows")
Named = namedtuple("Named", "name form")  # name = form, or name ∈ form
Equation = namedtuple("Equation", "text sides")  # sides claimed to be equal, the first of which is not a name

_PLAIN_WORDS = {word: Atom(str(number)) for number, word in enumerate(_NUMBER_WORDS)}
_NO_SOLUTION = re.compile(r"none|empty set|(?:there (?:i|are|exist) )?no (?:real )?(?:solution|root)(?: exist)?")
_PLAIN_WORDS |= {
    "infinitely many": Atom(r"\infty"),
    "infinity": Atom(r"\infty"),
    "dne": Word("doe not exist", "does not exist", sure=True),
}


def read(text: str):  # noqa: C901 (a table of shapes; the first that fits wins)
    """The form of a normalised text; an Atom if nothing else fits."""
    text = peel(text)
    if literals.value(text) is not None:
        return Atom(text)
    if reals := _REALS.match(text):
        ends = Atom("0" if reals[1] == "+" else r"-\infty"), Atom("0" if reals[1] == "-" else r"\infty")
        return Row("(", ")", ends)
    if (holes := _HOLES.match(text)) and closes(text, holes.start(1), r"\}"):
        return _without("", *map(read, split_list(holes[1])))
    if (word := as_word(text)) and len(names := re.split(r"\s+and\s+", word.raw)) > 1 and word.sure:
        return Many(tuple(as_word(rf"\text{{{name}}}") or Atom(name) for name in names))
    if word:
        return Atom(r"\emptyset") if _NO_SOLUTION.fullmatch(word.text) else _PLAIN_WORDS.get(word.text, word)
    if text.startswith(r"\text{") and closes(text, 6, "}"):  # in another typeface: \textbf{5}
        return read(text[6:-1])
    if residue := _RESIDUE.match(text):
        return Residue(residue[1] or "", int(residue[2]), int(residue[3]))
    parts = split(text, r"\cup")
    if len(parts) > 1 and "=" not in parts[-1]:  # |A ∪ B| = 8
        return Union(tuple(read(p) for p in parts))
    if cases := _CASES.match(text):
        return _many([_case(row) for row in _rows(cases[1])])
    if (rows := [split_list(part) for part in split(_OR.sub(";", text), ";")]) and len(set(map(len, rows))) == 1 < len(
        rows[0]
    ):
        named = [[read(item) for item in row] for row in rows if len(rows) > 1]
        if named and all(isinstance(form, Named) for row in named for form in row):  # p=5, q=2; p=7, q=2
            return Many(tuple(Row("(", ")", tuple(sorted(row, key=lambda form: form.name))) for row in named))
    parts = split_list(text)
    if len(parts) > 1:
        forms = [read(p) for p in parts if p.strip()]
        return (None if _OR.search(text) else _overlap(forms)) or _many(forms)
    if text.startswith(r"\{") and closes(text, 2, r"\}"):
        return _braces(text[2:-2].strip())
    if r"\pm" in text or r"\mp" in text:
        return _many([read(t) for t in _signs(text)])
    if (relation := _relation(text)) is not None:
        return relation
    if transposed := _TRANSPOSED.search(text):
        return _transpose(read(text[: transposed.start()])) or Atom(text)
    if len(terms := _terms(text)) > 1 and r"\begin{" in text:
        return _sum([read(term) for term in terms]) or Atom(text)
    if matrix := _MATRIX.match(text):
        return Matrix(tuple(tuple(read(cell) for cell in split(row, "&")) for row in _rows(matrix[1])))
    if (scaled := _SCALED.match(text)) and isinstance(matrix := read(scaled[2]), Matrix):
        factor = "-1" if scaled[1] == "-" else re.sub(r"\\(?:cdot|times)\s*$", "", scaled[1])
        return Matrix(tuple(tuple(_times(factor, cell) for cell in row) for row in matrix.rows))
    if (point := _POINT.match(text)) and isinstance(form := read(text[point.end() :]), Row):
        return Named(point[0].strip(), form)
    for opening, closing in (("(", ")"), ("[", "]"), (r"\langle", r"\rangle"), ("(", "]"), ("[", ")")):
        if text.startswith(opening) and text.endswith(closing) and closes(text, len(opening), closing):
            inner = text[len(opening) : -len(closing)].strip()
            items = split_list(inner)
            if len(items) > 1:
                left, right = ("(", ")") if opening == r"\langle" else (opening, closing)
                return Row(left, right, tuple(read(i) for i in items))
            if (opening, closing) in (("(", ")"), ("[", "]")) and inner:
                return read(inner)
    if len(parts := split(text, ":")) > 1 and all(p.strip() for p in parts):
        return Ratio(tuple(Atom(p.strip()) for p in parts))
    return Atom(text)


def _terms(text: str) -> list[str]:
    """The text cut before every plus and minus outside all brackets; terms keep their minus."""
    cuts = [position for token, position, depth in scan(text) if position and depth == 0 and token in ("+", "-")]
    return [text[a:b].strip().removeprefix("+").strip() for a, b in itertools.pairwise([0, *cuts, len(text)])]


def _sum(matrices: list) -> Matrix | None:
    if not all(isinstance(m, Matrix) for m in matrices) or len({tuple(map(len, m.rows)) for m in matrices}) > 1:
        return None
    rows = zip(*(m.rows for m in matrices), strict=True)
    return Matrix(
        tuple(
            tuple(Atom("+".join(f"({_inner(c)})" for c in cells)) for cells in zip(*row, strict=True)) for row in rows
        )
    )


def unit_vectors(text: str) -> Row | None:
    """2i − j as (2, −1); None for anything else."""
    parts = dict.fromkeys("ijk", "")
    for term in _terms(text):
        match = re.fullmatch(r"([^ijk]*)\s*([ijk])", term)
        if not match or parts[match[2]]:
            return None
        parts[match[2]] = match[1] + "1" if match[1] in ("", "-") else match[1]
    if not parts["j"] and not parts["k"]:  # a complex number
        return None
    return Row("(", ")", tuple(Atom(parts[name] or "0") for name in ("ijk" if parts["k"] else "ij")))


def _inner(cell) -> str:
    return cell.raw if isinstance(cell, Word) else getattr(cell, "text", "")


def _times(factor: str, cell) -> Atom:
    return Atom(rf"({factor}) \cdot ({_inner(cell)})")


def as_word(text: str) -> Word | None:
    """The text as a word of two letters or more, if it is one."""
    plain = _ARTICLE.sub("", re.sub(r"\\text\{([^{}]*)\}", r"\1", text).strip(" ."))
    if len(plain) < 2 or not _WORD.match(plain):
        return None
    sure = r"\text{" in text or " " in plain
    return Word(" ".join(w.removesuffix("s") for w in plain.casefold().split()), plain, sure)


def _many(forms) -> Many:
    flat = []
    for form in forms:
        flat += form.items if isinstance(form, Many) and not form.braces else [form]
    return Many(tuple(flat[: MAX_ITEMS + 1]))


def _braces(inner: str):
    for mark in (r"\mid", "|", ":"):
        parts = split(inner, mark)
        if len(parts) == 2 and (form := _relation(parts[1].strip())) is not None:
            return form
    if not inner:
        return Atom(r"\emptyset")
    items = [read(i) for i in split_list(inner)]
    return Many(_many(items).items, braces=True)


def _rows(text: str) -> list[str]:
    """The rows of a matrix or of cases."""
    return [row for row in re.split(r"\\\\(?:\s*\[[^\]]*\])?", text.replace(r"\hline", "")) if row.strip()]


def _case(row: str):
    """One of several cases: a value and its condition, or an equation of a system."""
    cells = [cell.strip(" ,;.") for cell in split(row, "&")]
    if len(cells) == 1:
        return read(cells[0])
    return Row("", "", (read(cells[0]), *(read(_CONDITION.sub("", cell)) for cell in cells[1:])))


def _transpose(form):
    if isinstance(form, Row):
        return Matrix(tuple((item,) for item in form.items))
    return Matrix(tuple(zip(*form.rows, strict=False))) if isinstance(form, Matrix) else None


def _signs(text: str) -> list[str]:
    """The text with every choice of its signs; ∓ is opposite to ±, several ± are independent."""
    parts = re.split(r"(\\pm|\\mp)(?![a-zA-Z])", text)
    signs = parts[1::2]
    if r"\mp" in signs:
        choices = [["+" if (s == r"\pm") == up else "-" for s in signs] for up in (True, False)]
    else:
        choices = itertools.islice(itertools.product("+-", repeat=len(signs)), MAX_ITEMS)
    return ["".join(p + s for p, s in itertools.zip_longest(parts[::2], choice, fillvalue="")) for choice in choices]


def _relation(text: str):
    """An equation, assignment, membership or inequality; None if the text is none of these."""
    marks = [
        (t, p) for t, p, d in scan(text) if d == 0 and t in ("=", r"\in", r"\approx", r"\neq", r"\equiv", *_RELATION)
    ]
    if not marks:
        return None
    starts = [0, *(p + len(t) for t, p in marks)]
    ends = [*(p for _, p in marks), len(text)]
    sides = [text[a:b].strip() for a, b in zip(starts, ends, strict=True)]
    kinds = {t for t, _ in marks}
    if any(not s for s in sides):
        return Atom(text)
    if kinds == {r"\approx"}:
        return read(sides[0])
    if kinds == {"=", r"\approx"}:
        return _relation(text[: next(p for t, p in marks if t == r"\approx")])
    if kinds == {r"\in"} and len(sides) == 2 and re.fullmatch(r"(?!\\text)[^0-9+-]+|[a-z]_\{?[0-9]\}?", sides[0]):
        return Named(_tight(sides[0]), read(sides[1]))
    if kinds == {"="}:
        return _equation(text, sides)
    if kinds == {r"\neq"} and len(sides) == 2 and _NAME.fullmatch(sides[0]):
        return _without(_tight(sides[0]), read(sides[1]))
    if kinds <= set(_RELATION):
        return _range([_RELATION[t] for t, _ in marks], sides) or Atom(text)
    return Atom(text)


def _equation(text: str, sides: list[str]):
    if _NAME.fullmatch(sides[0]) or (sides[0].endswith("}") and re.match(r"^\\text\{[^{}0-9]*\}$", sides[0])):
        values = sides[1:]
        if len(sides[0]) == 1 and re.search(rf"(?<![a-zA-Z\\]){sides[0]}(?![a-zA-Z])", values[-1]):
            return Equation(text, tuple(sides))  # x = 2x
        form = read(values[-1])
        return Named(_tight(sides[0]), form if len(values) == 1 else Equation(text, tuple(values)))
    if (
        len(sides) == 2
        and _NAME.fullmatch(sides[1])
        and not re.search(r"[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", sides[0]))
    ):
        return Named(_tight(sides[1]), read(sides[0]))  # 5 = x
    return Equation(text, tuple(sides))


def _range(marks: list[str], sides: list[str]):
    if len(sides) == 3 and {m[0] for m in marks} in ({"<"}, {">"}) and _NAME.fullmatch(sides[1]):
        low, name, high = sides
        first, second = marks
        if first[0] == ">":
            low, high, first, second = high, low, second, first
        return Range(_tight(name), "[" if "=" in first else "(", "]" if "=" in second else ")", (read(low), read(high)))
    if len(sides) == 2:
        left, right = sides
        mark = marks[0]
        order = Order(*(sides if mark[0] == "<" else sides[::-1]), strict="=" not in mark)
        if _SIZE.match(right):
            left, right, mark = right, left, _FLIPPED[mark]
        if size := _SIZE.match(left):
            return _within(size[1], size[2], mark, right)
        if _NAME.fullmatch(right) and not _NAME.fullmatch(left):
            left, right, mark = right, left, _FLIPPED[mark]
        if _NAME.fullmatch(left):
            closed = "=" in mark
            if mark[0] == "<":
                return Range(_tight(left), "(", "]" if closed else ")", (Atom(r"-\infty"), read(right)), order)
            return Range(_tight(left), "[" if closed else "(", ")", (read(right), Atom(r"\infty")), order)
        return order
    return None


def _without(name: str, *holes):
    """All real numbers except these, sorted by value if all have one, else in the given order."""
    values = [literals.value(getattr(hole, "text", "")) for hole in holes]
    if all(isinstance(value, int | Fraction) for value in values):
        holes = [hole for _, hole in sorted(zip(values, holes, strict=True), key=lambda pair: pair[0])]
    ends = [Atom(r"-\infty"), *holes, Atom(r"\infty")]
    return Union(tuple(Range(name, "(", ")", pair) for pair in itertools.pairwise(ends)))


def _within(name: str, shift: str, mark: str, bound: str):
    """|x - c| < a as an interval, |x - c| > a as the union of two."""
    low, high = (read(f"{sign}({bound}) - ({shift})") for sign in "-+") if shift else (read(f"-({bound})"), read(bound))
    if mark[0] == "<":
        return Range(name, *(("[", "]") if "=" in mark else ("(", ")")), (low, high))
    below = Range(name, "(", "]" if "=" in mark else ")", (Atom(r"-\infty"), low))
    return Union((below, Range(name, "[" if "=" in mark else "(", ")", (high, Atom(r"\infty")))))


def _overlap(forms: list) -> Range | None:
    """x > 1 and x < 3 as one interval; None for anything else, including two half-lines that do not meet."""
    if len(forms) != 2 or not all(isinstance(f, Range) for f in forms) or forms[0].name != forms[1].name:
        return None
    for below, above in (forms, forms[::-1]):
        if below.items[0] == Atom(r"-\infty") and above.items[1] == Atom(r"\infty"):
            ends = above.items[0], below.items[1]
            low, high = (literals.value(end.text) if isinstance(end, Atom) else None for end in ends)
            if isinstance(low, int | Fraction) and isinstance(high, int | Fraction) and low < high:
                return Range(below.name, above.left, below.right, ends)
    return None


def _tight(name: str) -> str:
    return re.sub(r"[\s{}]|\\text", "", name)
