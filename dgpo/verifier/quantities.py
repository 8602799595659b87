"""Numbers followed by something: units, degrees, per cent, number words, bases.

Either side may lack the unit, since the question usually names it; a unit that is given must be right.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, cast

# what pint does not know, or knows as something else
_MORE_UNITS = """
    radian = [angle] = rad; usd = [usd] = _ = dollar; cent = usd / 100;
    eur = [eur] = _ = euro; gbp = [gbp]; rupee = [rupee]; yen = [yen]
"""
_OTHER_TEXT = """
    $:usd €:eur £:gbp ₹:rupee ¥:yen ¢:cent cms:cm kms:km kmh:kph kmph:kph sq:square cu:cubic kwh:kWh radian:rad
    radians:rad 毫米:mm 厘米:cm 米:m 千米:km 公里:km 克:g 千克:kg 公斤:kg 秒:s 分钟:min 小时:h 天:day 升:l
    平方:square_ 立方:cubic_
"""
_OTHER_NAMES = {name: unit for name, _, unit in (pair.replace("_", " ").partition(":") for pair in _OTHER_TEXT.split())}
_CHINESE = re.compile("|".join(sorted((n for n in _OTHER_NAMES if n > "一"), key=len, reverse=True)))
# units that are read without \\text; any other letter behind a number may as well be a variable
_SHORT = "mm cm km in ft yd mi mg kg lb lbs min sec hr hrs ml mL mph kph kJ kW kWh Hz kHz MHz ohm mol nm usd cent"
_SHORT = frozenset(_SHORT.split())
_NUMBER_WORDS = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_BLOCKED = re.compile(  # words that mean more than a unit
    r"\b(?:and|or|not|if|is|are|when|where|mod|but|about|approximately|either|neither|nor|any|all|to|from|than|less|more"
    r"|half|third|quarter|twice|plus|minus|times|over)\b|(?<!\^)(?<!\{)(?<!-)[0-9]",
    re.IGNORECASE,
)

_UNIT_FRACTION = re.compile(
    r"\\frac\s*\{\s*\\text\{([^{}]*)\}\s*\}\s*\{\s*\\text\{([^{}]*)\}(\s*\^\s*\{?[0-9]\}?)?\s*\}"
)
_UNIT_POWER = re.compile(r"\\text\{[^{}]*\^\{-?[0-9]\}(?:[^{}]|\^\{-?[0-9]\})*\}")
_TAIL = re.compile(r"(?<=\S)\s*(\\text\{[^{}]*\}(?:\s|/|\\cdot|\*|\^\s*\{?\s*-?[0-9]\s*\}?|\\text\{[^{}]*\}|[.])*)$")
_BARE = re.compile(
    r"^([-+]?\s*(?:[0-9][0-9,]*(?:\.[0-9]+)?|\\frac\s*\{[^{}]*\}\s*\{[^{}]*\}|[0-9]+\s*/\s*[0-9]+|[0-9]*\\sqrt\s*\{[^{}]*\}))"
    r"(\s*)([a-zA-Z€£¢][a-zA-Z ./]*(?:\^\s*\{?[0-9]\}?)?)$"
)
_DEGREE = re.compile(r"^(.*?\S)\s*\^\\circ\s*(?:(?:\\text\{\s*)?([CFK])\s*\}?)?$")
_DEGREE_WORD = re.compile(r"^(.*?\S)\s*(?:\\text\{\s*)?(?<![a-zA-Z])deg(?:ree)?s?\s*\}?$")
_PERCENT = re.compile(r"^(.*?\S)\s*(?:%|(?:\\text\{\s*)?(?<![a-zA-Z])(?:percent(?:age)?|per cent|pct)\s*\}?)$")
_BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_BASE_WORDS |= {"eleven": 11, "twelve": 12, "sixteen": 16}
_BASE = re.compile(r"^(-?)([0-9A-Z]+|[0-9a-f]+)\s*_\s*(?:\{\s*(?:\\text\{)?\s*([0-9]+|[a-z]+)\s*\}?\s*\}|([0-9]))$")
_INSIDE_DEGREE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*\^\\circ(?![a-zA-Z])")
_UNIT = re.compile(r"[a-zA-Zµμ]+(?:\s?\^?\s?-?[0-9])?(?:[ */]{1,3}[a-zA-Zµμ]+(?:\s?\^?\s?-?[0-9])?){0,6}")
_CURRENCY = re.compile(r"^([-+]?)\s*([$€£₹¥])\s*(?=[0-9.]|\\frac)")
_COMPOUND = re.compile(
    r"^([0-9]+(?:\.[0-9]+)?)\s*(?:\\text\{)?\s*([a-zA-Z]{1,9})\s*(?:and\s*)?\}?\s*(?:and )?"
    r"([0-9]+(?:\.[0-9]+)?)\s*(?:\\text\{)?\s*([a-zA-Z]{1,9})\s*\}?$"
)
_MINUTES = re.compile(r"^([0-9]+)\s*\^\\circ\s*([0-9]+)\s*'(?:\s*([0-9]+)\s*'')?$")
_ARC = re.compile(r"^(.*[0-9])\s*('{1,2})$")  # minutes and seconds of an angle, or feet and inches


@dataclass(frozen=True)
class Quantity:
    """`number` (text) times `factor`, in `unit`: "" for none, "%", "°" or a canonical name."""

    number: str
    unit: str = ""
    factor: Fraction = Fraction(1)


def read_both(gold: str, given: str) -> tuple[Quantity, Quantity]:
    """Both as quantities; next to 5 cm, the m of 0.05m is a unit, not a variable."""
    quantities = read(gold), read(given)
    known = [bool(_size(q.unit)) for q in quantities]
    return quantities if known[0] == known[1] else (read(gold, known[1]), read(given, known[0]))


def read(text: str, unit: bool = False) -> Quantity:
    """The number of a text and what follows it; with `unit`, single letters there are units."""
    text = _UNIT_FRACTION.sub(r"\\text{\1/\2}\3", text.strip())
    text = _UNIT_POWER.sub(lambda m: m[0].replace("^{", "^").replace("}", "") + "}", text)
    if match := _CURRENCY.match(text):
        rest = read(match[1] + text[match.end() :])
        return Quantity(rest.number, rest.unit or _OTHER_NAMES[match[2]], rest.factor)
    if match := _COMPOUND.match(text):  # 1 hour 30 minutes
        units = [_canonical(match[i].split()) for i in (2, 4)]
        large, small = map(_size, units)
        if large and small and large[0] == small[0]:
            return Quantity(rf"{match[1]} + {match[3]} \cdot {_fraction(small[1] / large[1])}", units[0])
    if match := _MINUTES.match(text):
        return Quantity(rf"{match[1]} + \frac{{{match[2]}}}{{60}} + \frac{{{match[3] or 0}}}{{3600}}", "°")
    if match := _ARC.match(text):
        return Quantity(match[1], match[2])
    if match := _PERCENT.match(text):
        return Quantity(match[1].removesuffix("\\"), "%")
    if (match := _DEGREE.match(text)) and not _has_angle_function(match[1]):
        return Quantity(match[1], "°" + (match[2] or ""))
    if (match := _DEGREE_WORD.match(text)) and not _has_angle_function(match[1]):
        return Quantity(match[1], "°")
    if (match := _TAIL.search(text)) and match.start() > 0:
        phrase = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", match[1])
        return _with_unit(text, text[: match.start()], phrase, known_only=False)
    if match := _BARE.match(text):
        return _with_unit(
            text, match[1], match[3], known_only=not unit and (not match[2] or len(match[3].split()[0]) < 3)
        )
    return Quantity(text)


def equal(gold: Quantity, given: Quantity, same) -> bool:
    """Whether two quantities are equal; `same(a, b)` compares two numbers as text."""

    def scaled(q: Quantity, more=Fraction(1)):
        factor = q.factor * more
        return q.number if factor == 1 else rf"({q.number}) \cdot {_fraction(factor)}"

    def plain():
        return same(scaled(gold), scaled(given))

    if gold.unit == given.unit:
        return plain()
    if "%" in (gold.unit, given.unit):
        return _percent_equal(gold, given, same)
    if {gold.unit, given.unit} in ({"°", ""}, {"°", "rad"}):
        turn = [rf"({scaled(q)}) \cdot \frac{{\pi}}{{180}}" if q.unit == "°" else scaled(q) for q in (gold, given)]
        # 90° is π/2 anywhere, and 90 where the question asks for degrees
        return same(*turn) or ("rad" not in (gold.unit, given.unit) and plain())
    if not gold.unit or not given.unit:
        return plain()
    one, other = _size(gold.unit), _size(given.unit)
    if one and other and one[0] == other[0]:
        return same(scaled(gold, one[1]), scaled(given, other[1]))
    return _same_thing(gold.unit, given.unit) and plain()


def based(text: str) -> tuple[str, int] | None:
    """The digits and the base of a numeral such as 1010_2."""
    match = _BASE.match(re.sub(r"^\(([0-9A-Fa-f]+)\)(?=\s*_)", r"\1", text.strip()))
    if not match:
        return None
    sign, digits, *names = match.groups()
    name = names[0] or names[1]
    base = int(name) if name.isdigit() else _BASE_WORDS.get(name, 0)
    if digits.isalpha() and (base != 16 or len(digits) == 1):
        return None  # A_{12} is a variable
    digits = digits.lstrip("0").upper() or "0"
    return (sign + digits, base) if 2 <= base <= 36 and all(int(d, 36) < base for d in digits) else None


def degrees_inside(text: str) -> str:
    """sin 30° with its angle in radians; math-verify drops the sign."""
    return _INSIDE_DEGREE.sub(r"(\\frac{\1\\pi}{180})", text)


def _percent_equal(gold: Quantity, given: Quantity, same) -> bool:
    """50% is 1/2. It is also 50, with the sign omitted; but 0.5% is not 0.5, which would be ambiguous."""
    if gold.unit and given.unit:
        return False
    percent, plain = (gold.number, given.number) if gold.unit else (given.number, gold.number)
    hundredth = rf"({percent}) \cdot \frac{{1}}{{100}}"
    left, right = (hundredth, plain) if gold.unit else (plain, hundredth)
    if same(left, right):
        return True
    small = re.match(r"^\s*[-+]?\s*(?:0?\.[0-9]|0\b|\\frac)", percent) or "/" in percent
    return not small and same(*((percent, plain) if gold.unit else (plain, percent)))


def _with_unit(text: str, number: str, phrase: str, known_only: bool) -> Quantity:
    words = re.sub(r"[.,]", "", phrase).split()
    factor = Fraction(1)
    while words and words[0].lower() in _NUMBER_WORDS:
        factor *= _NUMBER_WORDS[words.pop(0).lower()]
    unit = _canonical(words)
    if _BLOCKED.search(" ".join(words)) and not _size(unit):
        return Quantity(text)
    names = re.findall(r"[^\W\d_]+", unit)
    sure = "/" in unit or all(n in _SHORT or len(n) > 3 for n in names)
    if known_only and factor == 1 and not (sure and _size(unit)):
        return Quantity(text)  # 5 m is as likely a product with a variable
    return Quantity(number.strip(), unit, factor)


def _canonical(words: list[str]) -> str:
    text = _CHINESE.sub(lambda m: _OTHER_NAMES[m[0]], " ".join(words))
    if degrees := re.fullmatch(r"(?:degrees? )?(celsius|fahrenheit)", text.lower()):
        return "°" + degrees[1][0].upper()
    text = re.sub(r"\s*(?:/|\bper\b)\s*", "/", re.sub(r"[{}]", "", text.replace(r"\cdot", " ")))
    text = " ".join(_OTHER_NAMES.get(w, w) if len(w) < 3 else _OTHER_NAMES.get(w.lower(), w) for w in text.split(" "))
    return re.sub(r"\s*\^\s*", "^", text) if _size(text) else text.lower()


@functools.cache
def _registry():
    import pint  # imported here, since only a worker needs it

    registry = pint.UnitRegistry(non_int_type=cast(Any, Fraction), cache_folder=None)
    for definition in _MORE_UNITS.split(";"):
        registry.define(definition.strip())
    return registry


@functools.lru_cache(maxsize=1024)
def _size(unit: str) -> tuple[Mapping, Fraction] | None:
    """The dimension of a unit such as cm^2, kJ or m s^-1 and its size; None for anything else."""
    if "unit" in unit.lower() or not _UNIT.fullmatch(unit):  # 12 square units
        return None
    for name in (unit, unit.lower()):
        try:
            units = _registry().parse_units(name)
            factor = Fraction(cast(Any, _registry().get_root_units(units)[0]))
        except Exception:  # noqa: BLE001 (pint raises half a dozen kinds of error for what it cannot read)
            continue
        return None if "[temperature]" in units.dimensionality else (units.dimensionality, factor)
    return None


def _fraction(x: Fraction) -> str:
    return rf"\frac{{{x.numerator}}}{{{x.denominator}}}"


def _same_thing(a: str, b: str) -> bool:
    """Whether two phrases such as "right triangles" and "triangles" name one thing: they share a word."""
    if "°" in a + b or (_size(a) and _size(b)):
        return False
    known, other = (a, b) if _size(a) else (b, a)
    if _size(known):  # years, years old
        return other.startswith(known + " ")
    stem = lambda phrase: {w.removesuffix("s") for w in phrase.split()}  # noqa: E731
    return bool(stem(a) & stem(b))


def _has_angle_function(text: str) -> bool:
    return bool(re.search(r"\\(?:sin|cos|tan|sec|csc|cot)(?![a-z])", text))
