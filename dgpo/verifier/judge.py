"""One answer against its reference, with math-verify. Runs only inside a worker: hostile input can hang it.

math-verify reads the expressions, and `values.py` compares their values. What has no value there, such as an integral
or a relation between variables, math-verify compares itself.
"""

import functools
import re
from typing import Any

from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify import LatexExtractionConfig, parse
from math_verify import verify as math_verify
from sympy import Eq, Expr, factorial, factorial2
from sympy.logic.boolalg import BooleanAtom

from dgpo.verifier import compare, forms, literals, quantities, values
from dgpo.verifier.answer import Verdict
from dgpo.verifier.brackets import split

# units stay, since quantities.py has dealt with them: math-verify by itself reads 5m as 5
_READING = NormalizationConfig(basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all")
# all of a text or nothing: without an anchor, it picks the last fraction out of what it cannot read
_NO_LIMIT: Any = None  # of seconds: the worker has its own
_LATEX = [LatexExtractionConfig(normalization_config=_READING, try_extract_without_anchor=False)]
_CHOICE = re.compile(
    r"^(?:\\text\{)?\s*(?P<open>\(?)\s*(?P<letter>[A-Ja-j])\s*(?P<close>[).]?)\s*[.:]?\s*\}?(?:\s*(?P<rest>\S.*))?$"
)
# what follows the label of a choice is not a plain answer
_MORE = re.compile(r"^[-+*/^_=!,'(]|^\\(?:cdot|times)|\b(?:or|and|[A-J])\b")
_LOG = re.compile(r"\\log(?!\s*_)(?![a-z])")
# math-verify reads 5 6 as 56, 5_2 as 5, 6 ≡ 5 as 5 and 4 R 3 as a product, and leaves out signs beyond ASCII
_NOT_READ = re.compile(
    r"[0-9]\s+[0-9]|\\text\{[^{}]*\}\s*[0-9]|[0-9]\s*_|\\(?:equiv|(?:long)?rightarrow|to)(?![a-zA-Z])|[^\x00-\x7f]"
)
_MISREAD = [  # names that math-verify misreads or strips of their marks, as names that it keeps apart
    (r"(?<![a-zA-Z\\])([EI])(?=\s*_)", r"\\hat{\1}"),  # E_1 is not read at all, I_1 and I_2 are both read as i
    (r"\\angle\s*([A-Z])\s*([A-Z])\s*([A-Z])(?![a-zA-Z])", lambda m: _angle(*m.groups())),
    (r"\\gamma(?![a-zA-Z])", r"\\hat{g}"),  # read as an infinite value of the gamma function
    (r"(?<=[a-zA-Z])'+", lambda m: f"_{{{'p' * len(m[0])}}}"),
]
_ANGLE_FUNCTION = re.compile(r"\\(?:sin|cos|tan|sec|csc|cot)(?![a-z])")
# the constant of integration, and the clause that makes a letter any integer
_CONSTANT = re.compile(r"\+\s*(?:[CcKk](?:_\s*\{?[01]\}?)?|\\text\{\s*(?:[Cc]|[Cc]onst(?:ant)?\.?)\s*\})$")
_INTEGER = re.compile(
    r"[\s,;(]*(?:\\text\{[\s,(]*(?:where|for|with)?\s*(?:all|any|some)?\s*\})?\s*([a-z])"
    r"\s*(?:\\in\s*\\mathbb\s*\{?Z\}?|\\text\{\s*(?:is )?an(?:y)? integer\s*\})[\s).]*$"
)
_FAMILY = re.compile(
    r"(?<![a-zA-Z\\])([kmnlj])\s*(?:\\cdot\s*)?\\pi(?![a-z])|(?:\\pi|(?:360|180)\s*\^\\circ)\s*(?:\\cdot\s*)?([kmnlj])"
)
_DENIED = re.compile(r"\b(?:not(?! exist)|wrong|incorrect|never|isn't)\b", re.IGNORECASE)
_UNDONE = re.compile(r"\\(?:i*int|oint|sum|prod|lim)(?![a-zA-Z])")  # repeats the question and does not answer it
_AND_SO_ON = re.compile(r"\\ldots(?![a-zA-Z])")  # math-verify drops it
_LETTERS = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")


class Unreadable(Exception):
    """math-verify cannot read the answer."""


def judge(gold: str, answer: str) -> Verdict:
    """The verdict on a normalised answer."""
    try:
        return Verdict.correct if _equal(gold, answer) else Verdict.wrong
    except (Unreadable, RecursionError):
        return Verdict.unparsed
    except values.TooBig:
        return Verdict.timeout


def plain(gold: str, answer: str) -> Verdict:
    """The verdict of math-verify alone, with the reference boxed, for audits."""
    right, given = (parse(rf"\boxed{{{text}}}", parsing_timeout=_NO_LIMIT) for text in (gold, answer))
    if not given:
        return Verdict.unparsed
    return Verdict.correct if math_verify(right, given, timeout_seconds=None) else Verdict.wrong


def warm_up() -> None:
    """Judge a few answers, so that the tables of the LaTeX parser are filled before the first fork."""
    for gold, answer in _EXERCISES:
        judge(gold, answer)


def _equal(gold: str, answer: str) -> bool:
    if gold.startswith(r"\approx"):
        gold, answer = (text.removeprefix(r"\approx").strip() for text in (gold, answer))
    if (chosen := _choice(gold, answer)) is not None:
        return chosen
    if _string(gold) == _string(answer):
        return True
    if (digits := quantities.based(gold)) is not None:
        return digits == quantities.based(answer)
    if (digits := quantities.based(answer)) is not None:
        return literals.value(gold) == int(*digits)
    if _DENIED.search(answer) and not _DENIED.search(gold):
        return False
    if _UNDONE.search(split(answer, "=")[-1]) and not _UNDONE.search(gold):
        return False
    if _AND_SO_ON.search(answer) and not _AND_SO_ON.search(gold):
        return False
    gold, answer = _one_parameter(gold, answer)
    right, given = forms.read(gold), forms.read(answer)
    if compare.equal(right, given, _same, _same_equation, _same_order):
        return True
    if _both_sets(right, given):
        left, right = _read(gold), _read(answer)
        return left is not None and right is not None and math_verify([left], [right], timeout_seconds=None)
    return False


def _one_parameter(gold: str, answer: str) -> tuple[str, str]:
    """Both texts with the gold's name for the constant of integration and for the integer of a family such as kπ.

    "k ∈ ℤ" is dropped, since the question says it. Letters that occur elsewhere stay.
    """
    for name, other in ("C_", "c_"), ("c_", "C_"):
        if name in gold and name not in answer and other not in gold:
            answer = answer.replace(other, name)
    texts = gold, answer
    if gold.endswith("C") and _CONSTANT.search(gold) and _CONSTANT.search(answer):
        rest = [_CONSTANT.sub("", text) for text in texts]
        letters = [set(_LETTERS.findall(text)) for text in rest]
        if not (letters[0] | letters[1]) & set("CcKk") and any(t.islower() and len(t) == 1 for t in letters[0]):
            return gold, rest[1] + "+ C"
    clauses = [_INTEGER.search(text) for text in texts]
    texts = [text[: clause.start()] if clause else text for text, clause in zip(texts, clauses, strict=True)]
    families = [m for text in texts if (m := _FAMILY.search(text))]
    if len(families) < 2:
        return (gold, answer)
    names = [m[1] or m[2] for m in families]
    if any(clause and clause[1] != name for clause, name in zip(clauses, names, strict=True)):
        return (gold, answer)
    if names[0] != names[1] and names[0] not in _LETTERS.findall(texts[1]):
        texts[1] = _LETTERS.sub(lambda m: names[0] if m[0] == names[1] else m[0], texts[1])
    return texts[0], texts[1]


def _same(gold: str, answer: str) -> bool:
    """Whether two expressions are equal."""
    if _string(gold) == _string(answer):
        return True
    left, right = quantities.read_both(gold, answer)
    if left.number != gold or right.number != answer:
        return quantities.equal(left, right, _same_number)
    return _same_number(gold, answer)


def _same_number(gold: str, answer: str) -> bool:
    if (equal := literals.equal(gold, answer)) is not None:
        return equal
    if _string(gold) == _string(answer):
        return True
    given = None if _NOT_READ.search(answer) else _read(answer)
    if given is None:
        raise Unreadable(answer)
    right = _read(gold)
    if right is None or not _same_case(gold, answer):
        return False
    if isinstance(right, Expr) and isinstance(given, Expr):
        try:
            return values.equal(right, given) or _natural(gold, answer) or _without_degrees(gold, answer)
        except values.Unknown:
            pass
    return math_verify([right], [given], timeout_seconds=None)


def _natural(gold: str, answer: str) -> bool:
    """Whether they are equal with log as the natural logarithm; math-verify takes it to base ten."""
    if not _LOG.search(gold + answer):
        return False
    return _same_number(_LOG.sub(r"\\ln ", gold), _LOG.sub(r"\\ln ", answer))


def _without_degrees(gold: str, answer: str) -> bool:
    """Whether they are equal without the degree sign: 90° − x is 90 − x where the question asks for degrees."""
    if (r"^\circ" in gold) == (r"^\circ" in answer) or _ANGLE_FUNCTION.search(gold + answer):
        return False
    return _same_number(gold.replace(r"^\circ", ""), answer.replace(r"^\circ", ""))


def _same_order(gold: forms.Order, given: forms.Order) -> bool:
    """Whether two inequalities are positive multiples of one another."""
    if gold.strict != given.strict:
        return False
    left, right = (_read(f"({order.more}) - ({order.less})") for order in (gold, given))
    if not isinstance(left, Expr) or not isinstance(right, Expr) or not (names := values.symbols(left)):
        return False
    if names != values.symbols(right) or not _same_case(gold.less + gold.more, given.less + given.more):
        return False
    factor = values.proportional(left, right)
    return factor is not None and factor.imag == 0 and factor.real > 0


def _same_equation(gold: str, answer: str) -> bool:
    """Whether two equations have the same sides, are multiples, or have the same solutions in math-verify."""
    sides = split(gold, "="), split(answer, "=")
    if all(len(s) == 2 for s in sides):
        (a, b), (c, d) = sides
        for pair, other in (((a, c), (b, d)), ((b, d), (a, c)), ((a, d), (b, c)), ((b, c), (a, d))):
            if _string(pair[0]) == _string(pair[1]) and _same(*other):
                return True
    left, right = _read(gold), _read(answer)
    if right is None:
        raise Unreadable(answer)
    if not isinstance(left, Eq) or not isinstance(right, Eq):
        return False
    names = values.symbols(left)
    if not names or names != values.symbols(right) or not _same_case(gold, answer):
        return False
    try:
        first, second = values.difference(left), values.difference(right)
        if values.proportional(first, second) is not None:
            return True
        if values.parted(left, right) is not False:
            return False
    except values.Unknown:
        pass
    return math_verify([left], [right], timeout_seconds=None)


@functools.lru_cache(maxsize=4096)
def _read(text: str):
    """A text as math-verify reads it; None if it cannot."""
    # boxed, since it reads a bare 8\sqrt{10} as 8
    text = quantities.degrees_inside(text).replace("%", r"\%").replace("$", "")
    for what, by in _MISREAD:
        text = re.sub(what, by, text)
    found = parse(rf"\boxed{{{text}}}", _LATEX, parsing_timeout=_NO_LIMIT, fallback_mode="no_fallback")
    if not found or isinstance(found[0], str | BooleanAtom | bool):
        return None
    return found[0].replace(_is_twice, lambda x: factorial2(x.args[0].args[0])) if "!!" in text else found[0]


def _is_twice(x) -> bool:
    """Whether it is (n!)!, which is how math-verify reads n!!."""
    return isinstance(x, factorial) and isinstance(x.args[0], factorial)


def _angle(a: str, b: str, c: str) -> str:
    """∠ABC as one name, the same as ∠CBA's and not ∠ACB's."""
    return rf"\hat{{{min(a, c)}{b}{max(a, c)}}}"


def _choice(gold: str, answer: str) -> bool | None:
    """Whether the letters of two choices agree; a value may follow a letter. None if they are not choices.

    B, (B) and (B) 12 are the same choice; against the reference 12, the (B) of (B) 12 is only a label.
    """
    right, given = _CHOICE.match(gold), _CHOICE.match(answer)
    if not given or (given["rest"] and (not given["close"] or _MORE.search(given["rest"]))):
        return False if right and not right["rest"] and right["open"] and right["close"] else None
    if right and not right["rest"] and (given["close"] or right["close"] or r"\text" in gold + answer):
        marked = r"\text" in gold or right["close"] or given["open"]
        return given["letter"] == right["letter"] or bool(marked and given["letter"].upper() == right["letter"].upper())
    return _equal(gold, given["rest"]) if given["rest"] else None


def _both_sets(gold, given) -> bool:
    """Whether math-verify should compare two sets of numbers, because one is a union or a difference."""
    joined = [
        form for form in (gold, given) if isinstance(form, forms.Union) or r"\setminus" in getattr(form, "text", "")
    ]
    return bool(joined) and all(form in joined or isinstance(form, forms.Row | forms.Range) for form in (gold, given))


def _same_case(gold: str, answer: str) -> bool:
    """Whether no letter differs in case alone: math-verify lowers all letters, but R is not r."""
    left, right = ({t for t in _LETTERS.findall(text) if len(t) == 1} for text in (gold, answer))
    return not any(c.swapcase() in right and c not in right and c.swapcase() not in left for c in left)


def _string(text: str) -> str:
    """The text without spaces and without braces round single characters, compared where nothing can be read."""
    text = re.sub(r"(\\[a-zA-Z]+) (?=[a-zA-Z])", r"\1~", text)
    text = re.sub(r"(?<![0-9])\s+|\s+(?![0-9])", "", text)  # 5 6 is not 56
    return re.sub(r"(?<=[_^])\{(.)\}", r"\1", text)


_EXERCISES = [
    (r"\frac{\sqrt{3}}{2}", r"\sqrt{\frac{3}{4}} + 0 \cdot \pi"),
    (r"x^{2}+3x-\frac{1}{2}", r"\frac{(x+1)(x+2)}{1} - 2.5"),
    (r"(1, 2)", r"\left(1, \frac{4}{2}\right)"),
    (r"y = \sin(2 x) + \log_2 8", r"2 \sin x \cos x + 3"),
    (r"2x + y = 3", r"4x + 2y = 6"),
    (r"1 \text{ km}", r"999 \text{ m}"),
    (r"e^{i \pi} + n!", r"n! - 1 + \binom{5}{2}"),
]
