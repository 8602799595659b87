"""One softmax policy under the same update, repeated: the ordinary differential equation that a clip implies.

Ascent on A·w_log·log π_a of one old token moves the logits along e_a − π, so with time t = steps · learning rate

    d log π/dt = A · w_log(r) · ‖e_a − π‖² = A · w_log(r) · κ (1−π)²,        κ = 1 + 1/others

if the rest of the mass is spread evenly over `others` tokens (it stays so). With w_log ≈ C·r^a as r → 0 and W the
weight at π = 1, each end has a closed form:

    A < 0, π → 0   a > 0   r → (a C κ t)^(−1/a)          PG 1/t (a = 1), DGPO t^(−1/(n+1)) (a = n+1)
                   a = 0   r ∝ exp(−C κ t)               GPPO, CISPO: the logit falls at constant speed
                   a < 0   r = 0 at a finite time
                   w = 0   stops                         GRPO, at 1−εl
    A > 0, π → 1   W ≠ 0   1−π → 1/(κ W t)               same power for all; the factor W is the method's
                   w = 0   stops                         GRPO, at 1+εh

`flow` integrates the equation, `ascent` takes discrete steps on all logits, `law` gives the closed form.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.integrate import solve_ivp

from analysis.landscape import key_of, resolve, resolve_all, weigh
from analysis.properties import describe

OTHERS = 31


@dataclass(frozen=True)
class Law:
    """The closed form that a method's policy ends in.

    kind         "power", "exponential", "extinction" (reaches 0 at a finite time) or "stops"
    exponent     d log y / d log t of y = π (A < 0) or 1−π (A > 0); nan unless a power
    rate         d log π / dt; nan unless exponential
    coefficient  y ≈ coefficient · t^exponent; nan unless a power
    """

    kind: str
    exponent: float = math.nan
    rate: float = math.nan
    coefficient: float = math.nan

    def __str__(self):
        return {"power": f"∝ t^{self.exponent:.3g}", "exponential": f"∝ exp({self.rate:.3g} t)"}.get(
            self.kind, self.kind
        )


def law(method, pi_old: float = 0.05, advantage: float = -1.0, others: float = OTHERS) -> Law:
    """The closed form of one method, from its measured weight near the end (see the module's docstring)."""
    method, kappa = resolve(method), _check(pi_old, others, advantage)
    if advantage > 0:
        end = float(weigh(method, -math.log(pi_old) - 1e-9, advantage, pi_old)) * advantage
        return Law("power", -1.0, coefficient=1 / (kappa * end)) if end > 0 else Law("stops")
    a = describe(method, pi_old).exponents["w_log_LN"]
    if math.isnan(a):
        return Law("stops")
    far = math.log(1e-8)
    c = float(weigh(method, far, advantage, pi_old)) * abs(advantage) * math.exp(-a * far)
    if c < 0:
        return Law("stops")
    if abs(a) < 1e-3:
        return Law("exponential", rate=-c * kappa)
    return Law("power", -1 / a, coefficient=pi_old * (a * c * kappa) ** (-1 / a)) if a > 0 else Law("extinction")


def flow(methods, times, pi_old: float = 0.05, advantage: float = -1.0, others: float = OTHERS) -> pd.DataFrame:
    """Solve the equation from r = 1 for one or several methods; a row per method and time.

    times: increasing, positive, in units of steps · learning rate. Columns: method, name, time, log_pi, pi, rest
    (= 1−π, exact near 1), ratio, w_log, logit_speed (= d z_a/dt), gradient (norm on the logits). Raises ValueError
    for bad times, and RuntimeError where the solver gives up (a weight under which π reaches 0 in finite time).
    """
    times = _check_times(times)
    kappa = _check(pi_old, others, advantage)
    parts = []
    for method in resolve_all(methods):
        odds = _solve(method, times, pi_old, advantage, kappa)
        parts.append(_frame(method, times, odds, pi_old, advantage, kappa))
    return pd.concat(parts, ignore_index=True)


def _solve(method, times, pi_old, advantage, kappa):
    """The log-odds x = log π − log(1−π) at `times`: dx/dt = A w κ (1−π), smooth at both ends of [0, 1]."""
    direction = math.copysign(1, advantage)

    def slope(t, x):
        w = weigh(method, -np.logaddexp(0, -x) - math.log(pi_old), advantage, pi_old)
        return advantage * w * kappa * np.exp(-np.logaddexp(0, x))

    # At a jump of w a solver would step to and fro: stop there and restart on the other side.
    jumps = [_odds(j.ratio * pi_old) for j in describe(method, pi_old).jumps if j.advantage == direction]
    x, t, found = _odds(pi_old), 0.0, np.empty(0)
    while len(found) < len(times):
        ahead = [j for j in jumps if (j - x) * direction > 1e-9]
        events = [_crossing(j) for j in ahead]
        due = times[len(found) :]
        part = solve_ivp(slope, (t, times[-1]), [x], "LSODA", due, events=events, rtol=1e-9, atol=1e-10)
        if part.status < 0 or not np.isfinite(part.y).all():
            raise RuntimeError(f"{key_of(method)}: no solution beyond t = {part.t[-1] if len(part.t) else t:g}")
        found = np.concatenate([found, part.y[0]]) if len(part.t) else found
        if part.status == 1:
            t, x = max((e[-1], y[-1, 0]) for e, y in zip(part.t_events, part.y_events, strict=True) if len(e))
            x += direction * 2e-9
            if not slope(t, np.array([x])) * direction > 0:  # past the jump nothing pushes, or pushes back: it stays
                found = np.concatenate([found, np.full(len(times) - len(found), x)])
    return found


def _odds(p):
    return math.log(p) - math.log1p(-p)


def _crossing(at):
    def event(t, x):
        return x[0] - at

    vars(event)["terminal"] = True  # solve_ivp stops here
    return event


def ascent(
    methods, steps: int, lr: float = 0.1, pi_old=0.05, advantage: float = -1.0, others: int = OTHERS, record=200
):
    """The same by plain gradient ascent on the 1 + others logits of a softmax, recorded at log-spaced steps.

    Columns as `flow`'s, with time = step · lr. Raises ValueError for steps or lr that are not positive.
    """
    if steps < 1 or not lr > 0:
        raise ValueError(f"steps={steps!r}, lr={lr!r}: both must be positive")
    kappa = _check(pi_old, others, advantage)
    keep = np.unique(np.geomspace(1, steps, record).round().astype(int))
    parts = []
    for method in resolve_all(methods):
        z = np.full(1 + others, math.log1p(-pi_old) - math.log(others))
        z[0] = math.log(pi_old)
        odds = []
        for step in range(1, steps + 1):
            z -= z.max()
            p = np.exp(z)
            p /= p.sum()
            log_pi = z[0] - math.log(np.exp(z).sum())
            w = float(weigh(method, log_pi - math.log(pi_old), advantage, pi_old))
            z -= lr * advantage * w * p
            z[0] += lr * advantage * w
            if step == keep[len(odds)]:
                odds.append(z[0] - np.logaddexp.reduce(z[1:]))
        parts.append(_frame(method, keep * lr, np.array(odds), pi_old, advantage, kappa))
    return pd.concat(parts, ignore_index=True)


def time_to(method, target: float, pi_old: float = 0.05, advantage: float = 1.0, others: float = OTHERS) -> float:
    """Time at which π, from π_old, reaches `target`: ∫ dx / (A w κ (1−π)) over the log-odds x; inf if it never does.

    For a rare good token it grows as log(1/π_old) under a bounded weight, and is constant under w_log ∝ r^b, b > 0.
    """
    kappa = _check(pi_old, others, advantage)
    if not 0 < target < 1 or (target - pi_old) * advantage <= 0:
        raise ValueError(f"target={target!r}: A = {advantage:g} moves π away from {pi_old:g}, to the other side of it")
    x = np.linspace(_odds(pi_old), _odds(target), 20001)
    w = weigh(resolve(method), -np.logaddexp(0, -x) - math.log(pi_old), advantage, pi_old)
    if not (w > 0).all():
        return math.inf
    return float(np.trapezoid(1 / (advantage * w * kappa * np.exp(-np.logaddexp(0, x))), x))


def exponent(time, y, last: float = 3.0) -> float:
    """d log y / d log t fitted over the last factor `last` of the times."""
    time, y = np.asarray(time, float), np.asarray(y, float)
    late = time >= time[-1] / last
    if late.sum() < 3 or not (y[late] > 0).all():
        raise ValueError(f"an exponent needs 3 positive values in the last factor {last:g} of the times")
    return float(np.polyfit(np.log(time[late]), np.log(y[late]), 1)[0])


def rate(time, log_pi, last: float = 3.0) -> float:
    """d log π / dt fitted over the last factor `last` of the times; it takes log π, since π underflows."""
    time, log_pi = np.asarray(time, float), np.asarray(log_pi, float)
    late = time >= time[-1] / last
    return float(np.polyfit(time[late], log_pi[late], 1)[0])


def verify(methods, steps: int = 4000, lr: float = 0.5, pi_old: float = 0.05, advantage: float = -1.0) -> pd.DataFrame:
    """The closed form beside the late times of the solver and of the discrete ascent.

    Columns: method, law, expected, flow, ascent and error, the larger relative one. Numbers are exponents, or rates
    where the law is exponential. If the method stops, they are ratios, `expected` is the boundary, and error is the
    flow's: a discrete step starts inside, so it lands up to one step past the boundary.
    """
    rows = []
    times = np.geomspace(lr, steps * lr, 200)
    for method in resolve_all(methods):
        form = law(method, pi_old, advantage)
        found = [flow(method, times, pi_old, advantage), ascent(method, steps, lr, pi_old, advantage)]
        if form.kind == "power":
            column, expected = ("pi" if advantage < 0 else "rest"), form.exponent
            seen = [exponent(f["time"], f[column]) for f in found]
        elif form.kind == "exponential":
            expected, seen = form.rate, [rate(f["time"], f["log_pi"]) for f in found]
        else:
            low, high = describe(method, pi_old).trust_region
            expected, seen = (1 - low if advantage < 0 else 1 + high), [f["ratio"].iloc[-1] for f in found]
        error = max(abs(s / expected - 1) for s in (seen[:1] if form.kind == "stops" else seen))
        rows.append((key_of(method), str(form), expected, *seen, error))
    return pd.DataFrame(rows, columns=["method", "law", "expected", "flow", "ascent", "error"])


def _frame(method, time, odds, pi_old, advantage, kappa):
    log_pi, log_rest = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
    w = weigh(method, log_pi - math.log(pi_old), advantage, pi_old)
    rest = np.exp(log_rest)
    columns = {
        "log_pi": log_pi,
        "pi": np.exp(log_pi),
        "rest": rest,
        "ratio": np.exp(log_pi - math.log(pi_old)),
        "w_log": w,
        "logit_speed": advantage * w * rest,
        "gradient": np.abs(advantage * w) * rest * math.sqrt(kappa),
    }
    return pd.DataFrame({"method": key_of(method), "name": str(method), "time": time, **columns})


def _check(pi_old, others, advantage):
    if not 0 < pi_old < 1:
        raise ValueError(f"pi_old={pi_old!r}: a probability strictly between 0 and 1 is needed")
    if not others >= 1:
        raise ValueError(f"others={others!r}: the rest of the mass needs at least one token")
    if advantage == 0 or not math.isfinite(advantage):
        raise ValueError(f"advantage={advantage!r}: nothing moves without a finite advantage that is not 0")
    return 1 + 1 / others


def _check_times(times):
    times = np.atleast_1d(np.asarray(times, float))
    if not len(times) or not (times > 0).all() or not (np.diff(times) > 0).all() or not np.isfinite(times).all():
        raise ValueError(f"times must be positive, finite and increasing (given {times[:5]} ...)")
    return times
