"""The value of an expression that math-verify read: exact if it is rational, else to many digits.

Two expressions are equal if their values agree at every point tried. math-verify compares fifteen digits and rounds
decimals to six places, which makes 1.4142136 equal to √2 and 10^-20 equal to 2·10^-20; and its `simplify` needs
seconds where a value needs a millisecond. Nothing is simplified or solved here.
"""

import hashlib
import math
import operator
import random
from fractions import Fraction
from typing import Any

import mpmath
import sympy
from mpmath import mp
from mpmath.libmp import NoConvergence
from sympy.core.function import AppliedUndef

DIGITS, CONFIRM_DIGITS = 60, 320
_BITS = 60_000  # of an exact number; a longer one is rounded to DIGITS
_MAGNITUDE = 10**7  # largest exponent of ten of any value

_PLAIN = """
    sin cos tan cot sec csc asin acos atan acot asec acsc sinh cosh tanh asinh acosh atanh exp gamma binomial
    sign re im arg floor erf zeta
"""
_FUNCTIONS: dict[str, Any] = {name: getattr(mpmath, name) for name in _PLAIN.split()}
_FUNCTIONS |= {"Abs": abs, "Max": max, "Min": min, "conjugate": mpmath.conj, "ceiling": mpmath.ceil}
_FUNCTIONS |= {"UnevaluatedExpr": lambda x: x, "factorial2": mpmath.fac2, "log": mpmath.log, "Mod": mpmath.fmod}
_EXACT: dict[str, Any] = {
    "floor": math.floor,
    "ceiling": math.ceil,
    "Max": max,
    "Min": min,
    "Abs": abs,
    "Mod": operator.mod,
}
_LARGEST: dict[str, int] = dict.fromkeys(("exp", "sinh", "cosh", "tanh"), _MAGNITUDE)  # largest arguments
_LARGEST |= dict.fromkeys(("sin", "cos", "tan", "cot", "sec", "csc"), 10**1000)
_ROUNDED = ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "tanh")
_KINKED = sympy.Abs, sympy.Max, sympy.Min, sympy.floor, sympy.ceiling, sympy.sign
_KNOWN = {*_FUNCTIONS, "factorial"}


class Unknown(Exception):
    """The expression contains something that has no value here, such as an integral."""


class TooBig(Exception):
    """An intermediate value is too large to be worth computing."""


def difference(equation: Any) -> Any:
    """Left side minus right side; sympy's types do not declare that the sides of an equation can be subtracted."""
    return equation.lhs - equation.rhs


def symbols(*expressions: sympy.Basic) -> list[str]:
    """The variables of the expressions; i is the imaginary unit."""
    return sorted({str(s) for e in expressions for s in e.free_symbols} - {"i"})


def points(names: list[str]) -> list[dict[str, Fraction]]:
    """The points to compare at: fixed random rationals, small and large, of either sign; one for constants."""
    rng = random.Random(",".join(names))
    ranges = [(50, 400)] * 3 + [(-400, 400)] * 3 + [(1_000, 6_000)] * 4
    return [{name: Fraction(rng.randint(*span), 131) for name in names} for span in ranges] if names else [{}]


def whole_points(names: list[str]) -> list[dict[str, Fraction]]:
    """Positive integers, for identities that hold only for those, such as cos nπ = (−1)^n."""
    rng = random.Random(",".join(names))
    return [{name: Fraction(rng.randint(1, 12 + 3 * k)) for name in names} for k in range(12)]


def equal(gold: sympy.Basic, given: sympy.Basic) -> bool:
    """Whether two expressions have the same value wherever the first is real (everywhere, if it is never real).

    Raises Unknown if one of them has no value, TooBig if it would take too long to compute.
    """
    names = symbols(gold, given)
    places = points(names)
    if names and any(e.has(*_KINKED) for e in (gold, given)):  # |x + 100| − 100 is x on one side of −100 only
        places += [
            {name: sign * (3 * 100**k + x) for name, x in places[k].items()} for k in range(9) for sign in (1, -1)
        ]
    if _agree(gold, given, places, DIGITS):
        return bool(names) or _agree(gold, given, [{}], CONFIRM_DIGITS)
    whole = bool(names) and set(names) <= set("nkmjNKM")
    return whole and _agree(gold, given, whole_points(names), DIGITS)


def proportional(gold: sympy.Basic, given: sympy.Basic) -> complex | None:
    """The constant c ≠ 0 with gold = c · given everywhere; None if there is none."""
    names = symbols(gold, given)
    factor = None
    for point in points(names):
        left, right = value(gold, point, DIGITS), value(given, point, DIGITS)
        if mpmath.isnan(_number(left)) or mpmath.isnan(_number(right)):
            continue
        if left == 0 or right == 0:
            return None
        with mp.workdps(DIGITS):
            ratio = _number(left) / _number(right)
            if factor is not None and not _close(factor, ratio, DIGITS):
                return None
            factor = ratio
    return None if factor is None else complex(factor)


def parted(gold: sympy.Eq, given: sympy.Eq) -> bool | None:
    """Whether some point solves one equation but not the other; None if no point was found that solves either."""
    names = symbols(gold, given)
    found = [
        _holds(there, {**point, name: root})
        for here, there in ((gold, given), (given, gold))
        for name in names
        for point in points(names)[1:5:2]
        for start in (1, -1)
        if (root := _root(here, {**point, name: None}, name, start)) is not None
    ]
    return not all(found) if found else None


def _root(equation: sympy.Eq, point: dict, name: str, start: int):
    """A real value of a variable that solves an equation; None if none is found near `start`."""

    def at(x):
        return _number(value(difference(equation), {**point, name: x}, DIGITS))

    with mp.workdps(DIGITS + 15):
        try:
            x = mpmath.findroot(at, (start * mpmath.mpf(1) / 3, start * mpmath.mpf(7) / 5), tol=1e-60, maxsteps=30)
        except (ValueError, ZeroDivisionError, TypeError, TooBig):
            return None
    return x if mpmath.im(x) == 0 and _holds(equation, {**point, name: x}) else None


def _holds(equation: sympy.Eq, point: dict) -> bool:
    """Whether both sides are real and the same: √x = √y does not hold where both are negative."""
    with mp.workdps(DIGITS + 15):
        left, right = (_number(value(side, point, DIGITS)) for side in (equation.lhs, equation.rhs))
        real = max(abs(mpmath.im(side)) for side in (left, right)) < mpmath.mpf(10) ** -30
        return bool(real and abs(left - right) < mpmath.mpf(10) ** -20)


def _agree(gold, given, places, digits) -> bool:
    """Whether they are equal at every point where the first is real; at all points if it is never real."""
    left, too_big = [], None
    for place in places:
        try:
            left.append((value(gold, place, digits), place))
        except TooBig as error:  # at this point; a smaller one may work
            too_big = error
    if too_big and not left:
        raise too_big
    left = [(x, place) for x, place in left if not mpmath.isnan(_number(x))]
    real = [(x, place) for x, place in left if abs(mpmath.im(_number(x))) <= mpmath.mpf(10) ** -30]
    return bool(left) and all(_alike(gold, given, x, place, digits) for x, place in real or left)


def _alike(gold, given, x, place, digits) -> bool:
    """Whether the other also has value x at a point; what cancels there, as cosh² − sinh², gets more digits."""
    y = value(given, place, digits)
    if _close(x, y, digits):
        return True
    return (
        digits == DIGITS
        and bool(place)
        and _close(x, y, 30)
        and _close(value(gold, place, CONFIRM_DIGITS), value(given, place, CONFIRM_DIGITS), DIGITS)
    )


def value(e: sympy.Basic, point: dict[str, Fraction], digits: int):
    """The value at a point: a Fraction, or an mpf or mpc of that many digits; NaN or infinity where there is none."""
    with mp.workdps(digits + 15):
        try:
            return _value(e, point)
        except (ZeroDivisionError, ValueError, NoConvergence):
            return mpmath.nan


def _value(e, point):
    if e.is_Symbol:
        return mpmath.mpc(0, 1) if e.name == "i" else point[e.name]
    if e.is_Rational:
        return Fraction(int(e.p), int(e.q))
    if e.is_Float:
        return Fraction(str(e))
    if e.is_Add:
        return _sum([_value(a, point) for a in e.args])
    if e.is_Mul:
        return _product([_value(a, point) for a in e.args])
    if e.is_Pow:
        return _power(_value(e.base, point), _value(e.exp, point))
    if e in _CONSTANTS:
        return _CONSTANTS[e]()
    if isinstance(e, AppliedUndef):  # an unknown function: a number derived from its name and arguments
        key = repr([type(e).__name__, *(mpmath.nstr(_number(_value(a, point)), 25) for a in e.args)])
        return Fraction(int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big"), 2**31)
    if type(e).__name__ not in _KNOWN:
        raise Unknown(type(e).__name__)
    return _function(type(e).__name__, [_value(a, point) for a in e.args])


_CONSTANTS = {
    sympy.pi: lambda: +mpmath.pi,
    sympy.E: lambda: +mpmath.e,
    sympy.I: lambda: mpmath.mpc(0, 1),
    sympy.oo: lambda: mpmath.inf,
    -sympy.oo: lambda: -mpmath.inf,
    sympy.zoo: lambda: mpmath.nan,
    sympy.nan: lambda: mpmath.nan,
    sympy.GoldenRatio: lambda: +mpmath.phi,
}


def _sum(terms):
    exact = _exact(sum((t for t in terms if isinstance(t, Fraction)), Fraction(0)))
    rest = [t for t in terms if not isinstance(t, Fraction)]
    if not rest:
        return exact
    rest.append(_number(exact))
    total, largest = mpmath.fsum(rest), max(map(abs, rest))
    # √8 − 2√2 leaves rounding errors only: what is below the working digits is zero
    return Fraction(0) if 0 < abs(total) < largest * mpmath.mpf(10) ** (5 - mp.dps) else total


def _product(factors):
    out = Fraction(1)
    for f in factors:
        both = isinstance(out, Fraction) and isinstance(f, Fraction)
        out = _exact(out * f) if both else _number(out) * _number(f)
    return out


def _power(base, exponent):
    if base == 0:
        return Fraction(int(exponent == 0)) if mpmath.re(_number(exponent)) >= 0 else mpmath.nan
    size = abs(mpmath.log(abs(_number(base)))) * abs(_number(exponent))
    if size > _MAGNITUDE:
        raise TooBig("power")
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        if isinstance(base, Fraction) and size < _BITS:
            return base ** int(exponent)
        return _number(base) ** int(exponent)
    if (
        isinstance(exponent, Fraction)
        and exponent.denominator % 2
        and isinstance(base, Fraction | mpmath.mpf)
        and base < 0
    ):
        root = mpmath.root(-_number(base), exponent.denominator)  # the real root: ∛-8 is -2
        return (-1) ** (exponent.numerator % 2) * root**exponent.numerator
    if exponent == Fraction(1, 2):
        return mpmath.sqrt(_number(base))
    return mpmath.power(_number(base), _number(exponent))


def _function(name: str, args: list[Any]):
    first: Any = args[0] if args else None
    whole = isinstance(first, Fraction) and first.denominator == 1
    if name in ("factorial", "factorial2", "binomial", "gamma") and abs(_number(first)) > _MAGNITUDE // 100:
        raise TooBig(name)
    if name in _LARGEST and abs(_number(first)) > _LARGEST[name]:
        raise TooBig(name)
    if name == "factorial":
        small = whole and 0 <= first < 3000
        return _exact(Fraction(math.factorial(int(first)))) if small else mpmath.factorial(_number(first))
    if name in _EXACT and all(isinstance(a, Fraction) for a in args):
        return Fraction(_EXACT[name](*args))
    out = _FUNCTIONS[name](*(_number(a) for a in args))
    return Fraction(0) if 0 < abs(out) < mpmath.mpf(10) ** (5 - mp.dps) and name in _ROUNDED else out  # sin π


def _exact(x: Fraction):
    bits = max(x.numerator.bit_length(), x.denominator.bit_length())
    return x if bits < _BITS else _number(x)


def _number(x):
    return mpmath.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x


def _close(a, b, digits: int) -> bool:
    """Whether they are equal: exactly if both are exact, else to all but a few digits, relative to the larger."""
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a == b
    with mp.workdps(digits + 15):
        a, b = _number(a), _number(b)
        if mpmath.isnan(b):
            return False
        if mpmath.isinf(a) or mpmath.isinf(b):
            return a == b
        return bool(abs(a - b) <= mpmath.mpf(10) ** (15 - digits) * max(abs(a), abs(b)))
