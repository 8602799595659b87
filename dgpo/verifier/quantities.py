"""Numbers with something behind them: units, degrees, per cent, number words, bases.

A unit may be missing on either side, because the question mostly names it; a unit that is there must be the right one.
"""

import re
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction

# dimension: canonical name and size of its units
_SIZES = {
    "length": "mm 1/1000  cm 1/100  m 1  km 1000  in 254/10000  ft 3048/10000  yd 9144/10000  mi 1609344/1000",
    "mass": "mg 1/1000000  g 1/1000  kg 1  lb 45359237/100000000",
    "time": "s 1  min 60  h 3600  day 86400  week 604800",
    "volume": "ml 1/1000  l 1",
    "dollars": "$ 1  cent 1/100",
    "euros": "€ 1",
    "pounds": "£ 1",
}
_UNITS = {
    name: (dimension, Fraction(size))
    for dimension, units in _SIZES.items()
    for name, size in zip(units.split()[::2], units.split()[1::2], strict=True)
}
_NAMES = """
    mm: millimeter millimetre; cm: centimeter centimetre cms; m: meter metre; km: kilometer kilometre kms
    in: inch inches; ft: foot feet; yd: yard yds; mi: mile; mg: milligram; g: gram; kg: kilogram kgs; lb: pound lbs
    s: sec second secs; min: minute mins; h: hr hour hrs; day: days; week: wk; ml: milliliter millilitre mL
    l: liter litre L; n: newton; j: joule; w: watt; pa: pascal; hz: hertz; rad: radian
    mm: 毫米; cm: 厘米; m: 米; km: 千米 公里; g: 克; kg: 千克 公斤; s: 秒; min: 分钟; h: 小时; day: 天; l: 升
    $: dollar usd; cent: ¢; €: euro eur; £: gbp; mi/h: mph; km/h: kmh kph kmph
"""
_CANONICAL = {unit: unit for unit in _UNITS}
for _name, _others in (entry.split(":") for entry in re.split(r"[;\n]", _NAMES.strip())):
    _CANONICAL |= {other: _name.strip() for other in _others.split()}
_NUMBER_WORDS = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_BLOCKED = re.compile(  # words that say more than a unit does
    r"\b(?:and|or|not|if|is|are|when|where|mod|but|about|approximately|either|neither|nor|any|all|to|from|than|less|more"
    r"|half|third|quarter|twice|plus|minus|times|over)\b|(?<!\^)(?<!\{)(?<!-)[0-9]",
    re.IGNORECASE,
)

_UNIT_FRACTION = re.compile(r"\\frac\s*\{\s*\\text\{([^{}]*)\}\s*\}\s*\{\s*\\text\{([^{}]*)\}\s*\}")
_TAIL = re.compile(r"(?<=\S)\s*(\\text\{[^{}]*\}(?:\s|/|\\cdot|\*|\^\s*\{?\s*-?[0-9]\s*\}?|\\text\{[^{}]*\}|[.])*)$")
_BARE = re.compile(
    r"^([-+]?\s*(?:[0-9][0-9,]*(?:\.[0-9]+)?|\\frac\s*\{[^{}]*\}\s*\{[^{}]*\}|[0-9]+\s*/\s*[0-9]+|[0-9]*\\sqrt\s*\{[^{}]*\}))"
    r"(\s*)([a-zA-Z€£¢][a-zA-Z ./]*(?:\^\s*\{?[0-9]\}?)?)$"
)
_DEGREE = re.compile(r"^(.*?\S)\s*\^\\circ\s*(?:(?:\\text\{\s*)?([CFK])\s*\}?)?$")
_DEGREE_WORD = re.compile(r"^(.*?\S)\s*(?:\\text\{\s*)?(?<![a-zA-Z])degrees?\s*\}?$")
_PERCENT = re.compile(r"^(.*?\S)\s*(?:%|(?:\\text\{\s*)?(?<![a-zA-Z])(?:percent|per cent|pct)\s*\}?)$")
_BASE_WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_BASE_WORDS |= {"eleven": 11, "twelve": 12, "sixteen": 16}
_BASE = re.compile(r"^(-?)([0-9A-Z]+|[0-9a-f]+)\s*_\s*(?:\{\s*(?:\\text\{)?\s*([0-9]+|[a-z]+)\s*\}?\s*\}|([0-9]))$")
_INSIDE_DEGREE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*\^\\circ(?![a-zA-Z])")
_CURRENCY = re.compile(r"^([-+]?)\s*([$€£])\s*(?=[0-9.]|\\frac)")
_ARC = re.compile(r"^(.*[0-9])\s*('{1,2})$")  # minutes and seconds of an angle, or feet and inches


@dataclass(frozen=True)
class Quantity:
    """`number` (text), times `factor`, of `unit`. A unit is "" when there is none, "%", "°" or a canonical name."""

    number: str
    unit: str = ""
    factor: Fraction = Fraction(1)


def read(text: str) -> Quantity:
    """The number of a text and what stands behind it."""
    text = _UNIT_FRACTION.sub(r"\\text{\1/\2}", text.strip())
    if match := _CURRENCY.match(text):
        rest = read(match[1] + text[match.end() :])
        return Quantity(rest.number, match[2] + rest.unit.removeprefix(match[2]), rest.factor)
    if match := _ARC.match(text):
        return Quantity(match[1], match[2])
    if match := _PERCENT.match(text):
        return Quantity(match[1].removesuffix("\\"), "%")
    if (match := _DEGREE.match(text)) and not _has_angle_function(match[1]):
        return Quantity(match[1], "°" + (match[2] or ""))
    if (match := _DEGREE_WORD.match(text)) and not _has_angle_function(match[1]):
        return Quantity(match[1], "°")
    if (match := _TAIL.search(text)) and match.start() > 0:
        return _with_unit(
            text, text[: match.start()], re.sub(r"\\text\{([^{}]*)\}", r" \1 ", match[1]), known_only=False
        )
    if match := _BARE.match(text):
        return _with_unit(text, match[1], match[3], known_only=not match[2] or len(match[3].split()[0]) < 3)
    return Quantity(text)


def equal(gold: Quantity, given: Quantity, same) -> bool:
    """Whether two quantities are equal, `same(a, b)` telling whether two number texts are."""

    def scaled(q: Quantity, more=Fraction(1)):
        factor = q.factor * more
        return q.number if factor == 1 else rf"({q.number}) \cdot \frac{{{factor.numerator}}}{{{factor.denominator}}}"

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
    sizes = [_size(q.unit) for q in (gold, given)]
    if all(sizes) and sizes[0][0] == sizes[1][0]:
        return same(scaled(gold, sizes[0][1]), scaled(given, sizes[1][1]))
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
    """50% is 1/2. It is 50 too, if the sign is left out; but 0.5% is not 0.5, where both could be meant."""
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
    if _BLOCKED.search(" ".join(words)):
        return Quantity(text)
    unit = _canonical(words)
    if known_only and factor == 1 and _size(unit) is None:
        return Quantity(text)
    if known_only and re.fullmatch(r"[a-z](?:\^.)?", unit):
        return Quantity(text)  # 5 m: a product with a variable as likely as metres
    return Quantity(number.strip(), unit, factor)


def _canonical(words: list[str]) -> str:
    power = ""
    text = " ".join(words)
    for prefix, mark in (
        ("square ", "^2"),
        ("sq ", "^2"),
        ("cubic ", "^3"),
        ("cu ", "^3"),
        ("平方", "^2"),
        ("立方", "^3"),
    ):
        if text.lower().startswith(prefix) and len(text) > len(prefix):
            text, power = text[len(prefix) :], mark
    for suffix, mark in ((" squared", "^2"), (" cubed", "^3")):
        if text.lower().endswith(suffix):
            text, power = text[: -len(suffix)], mark
    if match := re.fullmatch(r"(.*\S)\s*\^\s*\{?\s*([0-9])\s*\}?", text):
        text, power = match[1], "^" + match[2]
    text = re.sub(r"\s*(?:/|\bper\b)\s*", "/", text)
    text = "/".join(_one(part) for part in text.split("/"))
    return _CANONICAL.get(text, text) + power


def _one(word: str) -> str:
    word = word.strip()
    for form in (
        word,
        word.lower() if len(word) > 2 else word,
        word.lower().removesuffix("s") if len(word) > 3 else word,
    ):
        if form in _CANONICAL:
            return _CANONICAL[form]
    return word.lower()


def _size(unit: str) -> tuple[Counter, Fraction] | None:
    """What a unit such as cm^2 or km/h measures and how large it is; None for what is not made of known units."""
    measures, size = Counter(), Fraction(1)
    for i, part in enumerate(unit.split("/")):
        name, _, power = part.partition("^")
        if name not in _UNITS:
            return None
        exponent = int(power or 1) * (-1 if i else 1)
        measures[_UNITS[name][0]] += exponent
        size *= _UNITS[name][1] ** exponent
    return measures, size


def _same_thing(a: str, b: str) -> bool:
    """Whether two phrases such as "right triangles" and "triangles" name one thing: a word in common."""
    if any(u.partition("^")[0].split("/")[0] in _UNITS or u.startswith("°") for u in (a, b)):
        return False
    stem = lambda phrase: {w.removesuffix("s") for w in phrase.split()}  # noqa: E731
    return bool(stem(a) & stem(b))


def _has_angle_function(text: str) -> bool:
    return bool(re.search(r"\\(?:sin|cos|tan|sec|csc|cot)(?![a-z])", text))
