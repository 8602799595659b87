"""How a method behaves at its boundaries, measured from its weight alone: `describe(method) -> Properties`.

    python -m analysis.properties dgpo gppo mymodule:MyMethod [--pi-old 0.05] [--json]

One rule for every method, including the one you just wrote. It looks at the gate g = w_log/r, which equals
π_old·w_prob and is 1 for unclipped importance sampling (PG), over ratios from 1e-8 to 1/π_old, where π is 1.
(Training never meets 1e-8, which is still within the ±20 to which codes clamp log r.) Regions are those of
`method.trust_region`.

    explores    LN, HP: w_log is nonzero at every ratio within a factor 100 of the boundary
    converges   LN: |w_prob| stays bounded as π → 0. HP: |w_prob| falls: as π → 1 it is below its value just past the
                boundary, and not rising
    continuous  no jump from r = 1 outwards on that side (found by bisection, so also away from the boundary)
    bias        |g − 1|. IN, LP, HN: `unbiased` if it is below 1e-6 everywhere, else `biased`.
                LN, HP: `unbiased` likewise, else by its mean over a window past the boundary,
                small < 0.15 ≤ moderate < 0.5 ≤ large
    lagging     LP, HN: mean g below, within or above 1 ± 0.01: small, normal, large

Windows, uniform in r: LN down to 0.9 (1−εl), HP up to 1.5 (1+εh), each from where the method departs from PG; LP and
HN a factor 5, so that a distant guard (a dual clip at c = 10) shows in `jumps`, not in the word. The LN and HP
windows and the two cuts are fitted to the words of the paper's figure 2 and have no other justification: over all of
LN the mean bias of GPPO and CISPO diverges, and below 0.875 (1−εl) it exceeds CE-GPPO's, which the paper ranks above
it.
"""

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass

import numpy as np

from analysis.landscape import key_of, resolve, trust_region_of, weigh
from dgpo import methods as registry
from dgpo.plain import locate

DEPTH = 1e-8  # the smallest ratio
REACH = 100.0  # "explores" looks up to this factor past the boundary
BIAS_LEFT, BIAS_RIGHT, LAGGING = 0.9, 1.5, 5.0  # windows, as factors on the boundary
EQUAL, NORMAL = 1e-6, 1e-2  # a gate this close to 1 counts as PG's; a lagging magnitude this close is normal
MODERATE, LARGE = 0.15, 0.5  # mean |g − 1| from which a boundary bias has this name
POINTS = 2001


@dataclass(frozen=True)
class Side:
    """One boundary: whether a token past it keeps a gradient, w_prob stays bounded, and the weight does not jump."""

    explores: bool
    converges: bool
    continuous: bool


@dataclass(frozen=True)
class Jump:
    """A discontinuity of w_log: the sign of the advantage, the ratio, and w_log on its smaller and larger side."""

    advantage: int
    ratio: float
    below: float
    above: float


@dataclass(frozen=True)
class Properties:
    """The measurements of `describe`; the module's docstring has the rules.

    LN, HP        Side, of LN (A < 0, r < 1−εl) and HP (A > 0, r > 1+εh)
    bias          IN, LN, HP, LP, HN: unbiased small moderate large biased
    lagging       LP, HN: small normal large
    exponents     w_prob_LN, w_prob_HP: d log|w_prob| / d log π as π → 0 on LN, π → 1 on HP;
                  w_log_LN, w_log_HP: d log|w_log| / d log r. nan where the weight is 0: no power of π
    max_logit     per region the largest |w_log|·(1−π): the logit gradient in a large vocabulary
    jumps         every discontinuity found, dual clips included
    measured      the numbers behind the words: bias (mean |g−1|; on IN its maximum) and lagging (mean g)
    """

    method: str
    pi_old: float
    trust_region: tuple[float, float]
    LN: Side
    HP: Side
    bias: dict[str, str]
    lagging: dict[str, str]
    exponents: dict[str, float]
    max_logit: dict[str, float]
    jumps: tuple[Jump, ...]
    measured: dict[str, dict[str, float]]

    def to_dict(self) -> dict:
        """As plain dicts, lists, strings and numbers; nan where a weight of 0 has no exponent."""
        return asdict(self) | {"trust_region": list(self.trust_region), "jumps": [asdict(j) for j in self.jumps]}


def describe(method, pi_old: float = 0.05, windows: tuple[float, float] = (BIAS_LEFT, BIAS_RIGHT)) -> Properties:
    """Measure a method (key, Method, Method class or weight function) at one π_old; `windows` are those of LN and HP.

    Raises ValueError, naming the method, for a weight that is NaN, infinite, of the wrong shape or tracks gradients,
    and for a π_old that leaves no ratio beyond 1+εh.
    """
    method = resolve(method)
    eps_low, eps_high = trust_region_of(method)
    low, high, end = math.log(1 - eps_low), math.log(1 + eps_high), -math.log(pi_old) if 0 < pi_old < 1 else -1
    if not high < end - 1e-3 or math.exp(low) * BIAS_LEFT <= DEPTH:
        raise ValueError(
            f"{key_of(method)}: pi_old={pi_old!r} with trust region [{1 - eps_low:g}, {1 + eps_high:g}]: "
            f"a probability below 1/(1+εh) = {1 / (1 + eps_high):g} is needed, else no ratio lies beyond it"
        )
    curve = _Curve(method, pi_old)
    bottom, top = math.log(DEPTH), end - 1e-9
    past = {  # for each region: the sign of A, then log r just past the boundary and at the far end
        "LN": (-1, low - 1e-9, bottom),
        "HP": (1, high + 1e-9, top),
        "LP": (1, low - 1e-9, bottom),
        "HN": (-1, high + 1e-9, top),
    }
    jumps = curve.jumps(-1, bottom, top, (low, high)) + curve.jumps(1, bottom, top, (low, high))
    sides = {name: curve.side(*past[name], jumps) for name in ("LN", "HP")}
    bias, size = _bias(curve, past, low, high, dict(zip(("LN", "HP"), windows, strict=True)))
    mean_gate = {k: curve.window(*past[k], LAGGING)[1].mean() for k in ("LP", "HN")}
    slopes = {k: curve.exponent(*past[k]) for k in ("LN", "HP")}
    exponents = {f"w_prob_{k}": math.nan if math.isnan(s) else s - 1 for k, s in slopes.items()}
    exponents |= {f"w_log_{k}": s for k, s in slopes.items()}
    return Properties(
        method=str(method),
        pi_old=float(pi_old),
        trust_region=(eps_low, eps_high),
        LN=sides["LN"],
        HP=sides["HP"],
        bias=bias,
        lagging={k: "normal" if abs(g - 1) <= NORMAL else "large" if g > 1 else "small" for k, g in mean_gate.items()},
        exponents=exponents,
        max_logit={"IN": max(curve.peak(s, low, high) for s in (-1, 1))}
        | {k: curve.peak(*where) for k, where in past.items()},
        jumps=jumps,
        measured={"bias": size, "lagging": {k: float(g) for k, g in mean_gate.items()}},
    )


def _bias(curve, past, low, high, windows):
    t = np.linspace(low + 1e-9, high - 1e-9, POINTS)  # rounding may put the boundary itself on either side
    inside = max(np.abs(curve.gate(sign, t) - 1).max() for sign in (-1, 1))
    word, size = {"IN": "unbiased" if inside <= EQUAL else "biased"}, {"IN": float(inside)}
    for name, (sign, start, end) in past.items():
        boundary = name in ("LN", "HP")
        factor = windows.get(name, LAGGING)
        departs = np.zeros(1, bool)
        if boundary:
            t = np.linspace(start, end, POINTS)
            departs = np.abs(curve.gate(sign, t) - 1) > EQUAL
            start = t[max(departs.argmax() - 1, 0)]
        off = np.abs(curve.window(sign, start, end, factor)[1] - 1)
        size[name] = float(off.mean())
        unbiased = not departs.any() if boundary else off.max() <= EQUAL
        magnitude = "small" if size[name] < MODERATE else "moderate" if size[name] < LARGE else "large"
        word[name] = "unbiased" if unbiased else magnitude if boundary else "biased"
    return word, size


class _Curve:
    """w_log of one method at one π_old, as a function of the sign of A and of log r."""

    def __init__(self, method, pi_old):
        self.method, self.pi_old = method, pi_old

    def w(self, sign, t):
        w = weigh(self.method, t, sign, self.pi_old)
        if not np.isfinite(w).all():
            at = np.asarray(t)[~np.isfinite(w)][0]
            raise ValueError(f"{key_of(self.method)}.weight is infinite at log r = {at:.4g}, A = {sign:g}")
        return w

    def gate(self, sign, t):
        return self.w(sign, t) * np.exp(-t)

    def window(self, sign, start, end, factor):
        """(log r, gate) at evenly spaced ratios from `start` to that factor away, towards `end` but not past it."""
        away = math.log(factor if factor > 1 else 1 / factor)
        stop = max(end, start - away) if end < start else min(end, start + away)
        t = np.log(np.linspace(math.exp(start), math.exp(stop), POINTS))
        return t, self.gate(sign, np.clip(t, min(start, stop), max(start, stop)))

    def side(self, sign, start, end, jumps):
        stop = max(end, start - math.log(REACH)) if sign < 0 else min(end, start + math.log(REACH))
        zero = self.w(sign, np.linspace(start, stop, POINTS)) == 0
        explores = not (zero[1:] & zero[:-1]).any()  # two in a row, since a change of sign may hit 0 once
        bounded = self.bounded(start, end) if sign < 0 else self.falls(start, end)
        out = [j for j in jumps if j.advantage == sign and (j.ratio - 1) * sign > -1e-6]
        return Side(explores, bounded, not out)

    def bounded(self, start, end):
        """Whether |gate| stops growing: its maximum on the way to DEPTH grows less in the last quarter than before."""
        records = np.maximum.accumulate(np.abs(self.gate(-1, np.linspace(start, end, POINTS))))
        half, three, whole = records[[POINTS // 2, 3 * POINTS // 4, -1]]
        # log r diverges: its maximum grows evenly (quotient 1). r^a + const with a > 0.1 has a quotient below 0.65.
        return bool(whole - three <= max(0.7 * (three - half), 1e-6 * three))

    def falls(self, start, end):
        g = np.abs(self.gate(1, np.linspace(start, end, POINTS)))
        return bool(g[-1] == 0 or (g[-1] < g[0] * (1 - 1e-3) and g[-1] <= g[-21] * (1 + 1e-6)))

    def exponent(self, sign, start, end):
        """d log|w_log| / d log r at the far end of a region, or just before w_log underflows; nan if it is 0."""
        t = np.linspace(end, start, POINTS)
        size = np.abs(self.w(sign, t))
        first = int((size > 1e-290).argmax())
        if size[first] <= 1e-290 or (first > 0 and size[first] > 1e-200):  # a true 0, not an underflow
            return math.nan
        width = min(abs(end - start) / 20, 1.0)
        t = t[first] + np.linspace(0, width, 21) * (1 if start > end else -1)
        return float(np.polyfit(t, np.log(np.abs(self.w(sign, t)) + 1e-300), 1)[0])

    def peak(self, sign, start, end):
        t = np.linspace(start, end, 2 * POINTS)
        return float((np.abs(self.w(sign, t)) * (1 - np.minimum(np.exp(t) * self.pi_old, 1))).max())

    def jumps(self, sign, bottom, top, boundaries):
        """Bisect every interval of a grid towards its steeper half; a step that does not shrink with it is a jump."""
        close = [b + np.linspace(-1e-4, 1e-4, 11) for b in (*boundaries, 0.0)]
        a = np.unique(np.concatenate([np.linspace(bottom, top, 2 * POINTS), *close]))
        a, b = a[:-1], a[1:]
        fa, fb = self.w(sign, a), self.w(sign, b)
        trail = []
        while (b - a).max() > 1e-12:
            c = (a + b) / 2
            fc = self.w(sign, c)
            left = np.abs(fc - fa) > np.abs(fb - fc)
            a, b, fa, fb = np.where(left, a, c), np.where(left, c, b), np.where(left, fa, fc), np.where(left, fc, fb)
            trail.append(np.abs(fb - fa))
        size = np.maximum(np.abs(fa), np.abs(fb))
        # 10 halvings shrink a slope by 1000 and a square root by 32; what they leave unchanged is a jump.
        # The floor ignores the rounding steps of a weight computed in float32.
        found = (trail[-1] > np.maximum(1e-6, 1e-5 * size)) & (trail[-1] > 0.5 * trail[-11])
        return tuple(Jump(sign, *(float(x[i]) for x in (np.exp(a), fa, fb))) for i in found.nonzero()[0])


def load(name: str):
    """A registered key, or an importable `module:Class`; the ValueError says which part is missing."""
    return resolve(locate(name)) if ":" in name else registry.get(name)


def _tidy(x):
    return "0" if abs(x) < 1e-6 else f"{x:.3g}"


def render(p: Properties) -> str:
    """The properties of one method as a page of text."""
    yes = {True: "yes", False: "no"}
    eps_low, eps_high = p.trust_region
    lines = [f"{p.method}   at π_old = {p.pi_old:g}, trust region [{1 - eps_low:g}, {1 + eps_high:g}]"]
    for name in ("LN", "HP"):
        side, slope = getattr(p, name), (p.exponents[f"w_log_{name}"], p.exponents[f"w_prob_{name}"])
        words = "   ".join(f"{k} {yes[v]:3}" for k, v in asdict(side).items())
        limit = "w_log 0" if math.isnan(slope[0]) else f"w_log ∝ r^{_tidy(slope[0])}, w_prob ∝ π^{_tidy(slope[1])}"
        lines.append(f"  {name:14} {words}   far end: {limit}")
    for name, word in p.bias.items():
        extra = f"   magnitude {p.lagging[name]} ({p.measured['lagging'][name]:.3g})" if name in p.lagging else ""
        peak = f"max w_log(1−π) {p.max_logit[name]:.3g}"
        lines.append(f"  {name:14} {word} ({_tidy(p.measured['bias'][name])}){extra}   {peak}")
    for j in p.jumps:
        sign = ">" if j.advantage > 0 else "<"
        lines.append(f"  jump           A {sign} 0, r = {j.ratio:.6g}: w_log {j.below:.4g} | {j.above:.4g}")
    return "\n".join(lines)


def main(argv=None) -> int:
    parser = argparse.ArgumentParser("python -m analysis.properties", description="Measure methods from their weights.")
    parser.add_argument("methods", nargs="+", help=f"module:Class, or a key: {', '.join(registry.names())}")
    parser.add_argument("--pi-old", type=float, default=0.05, help="the probability the token was sampled with")
    parser.add_argument("--json", action="store_true", help="a JSON list; null where a weight of 0 has no exponent")
    args = parser.parse_args(argv)
    sys.path.insert(0, "")
    try:
        found = [describe(load(name), args.pi_old) for name in args.methods]
    except (ValueError, TypeError) as error:
        parser.error(str(error))
    if args.json:
        plain = json.loads(json.dumps([p.to_dict() for p in found]), parse_constant=lambda _: None)
        print(json.dumps(plain, indent=2, ensure_ascii=False))
    else:
        print("\n\n".join(render(p) for p in found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
