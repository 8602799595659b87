// The weight of every method on ∇log π: w_log(Δ, A, π_old) with Δ = log r. Formula for formula those of
// dgpo.methods, which a test compares at 200 points a method. Parameters, defaults and allowed ranges come
// from Python (data.js).
import { METHODS } from "./data.js";
import { remote } from "./remote.js";

const EXTINCT = -Infinity; // a log weight of −∞ is a weight of 0

/** Which of the regions LN, HP, LP, HN, IN a token is in; ties are inside. */
export function region(d, A, low, high) {
  const below = d < Math.log(1 - low),
    above = d > Math.log(1 + high);
  if (below && A < 0) return "LN";
  if (above && A > 0) return "HP";
  if (below && A > 0) return "LP";
  return above && A < 0 ? "HN" : "IN";
}

const dual = (d, c) => (c !== null && d > Math.log(c) ? EXTINCT : d);
const outside = (d, low, high) => d < Math.log(low) || d > Math.log(high);
/** log(1 − π), π kept 1e-8 away from 1. */
const rest = (logp) => Math.log(-Math.expm1(Math.min(logp, -1e-8)));
/** KL of two Bernoulli variables, from their log-probabilities. */
const binaryKL = (p, q) => Math.exp(Math.min(p, 0)) * (p - q) + Math.exp(rest(p)) * (rest(p) - rest(q));
/** r, and 0 where PPO's clip with these bounds leaves no gradient. */
const hardClip = (d, A, low, high) =>
  (A > 0 && Math.exp(d) > high) || (A < 0 && Math.exp(d) < low) ? 0 : Math.exp(d);
const sum = (xs) => xs.reduce((a, b) => a + b, 0);

/** log w_log by region, for the methods that are written so; `d` wherever a region is not named. */
const BY_REGION = {
  grpo: { LN: () => EXTINCT, HP: () => EXTINCT, HN: (d, p) => dual(d, p.dual_clip) },
  gppo: {
    LN: (d, p) => Math.log(1 - p.eps_low),
    HP: (d, p) => Math.log(1 + p.eps_high),
    HN: (d, p) => dual(d, p.dual_clip),
  },
  ce_gppo: {
    LN: (d, p) => Math.log(p.beta_low) + Math.log(1 - p.eps_low),
    HP: (d, p) => Math.log(p.beta_high) + Math.log(1 + p.eps_high),
    HN: (d, p) => dual(d, p.dual_clip),
  },
  dgpo: {
    LN: (d, p) => d + p.n * (d - Math.log(1 - p.eps_low)),
    HP: (d, p) => d - (d - Math.log(1 + p.eps_high)) / p.m,
  },
};

/** w_log for the others. */
const DIRECT = {
  cispo: (d, A, old, p) => Math.exp(Math.min(Math.max(d, Math.log(1 - p.eps_low)), Math.log(1 + p.eps_high))),
  aspo(d, A, old, p) {
    const where = region(d, A, p.eps_low, p.eps_high);
    if (where === "LN" || where === "HP") return 0;
    return Math.exp(Math.min(A > 0 ? -d : d, Math.log(p.dual_clip)));
  },
  pg: (d) => Math.exp(d),
  reinforce: () => 1,
  cispo_cap: (d, A, old, p) => Math.exp(Math.min(d, Math.log(p.cap))),
  sapo(d, A, old, p) {
    const x = Math.abs(((A > 0 ? p.tau_pos : p.tau_neg) * Math.expm1(d)) / 2);
    return Math.exp(d + 2 * (Math.LN2 - x - Math.log1p(Math.exp(-2 * x))));
  },
  maspo(d, A, old) {
    if (!(A * d > 0)) return Math.exp(d);
    const wide = Math.min(Math.max(Math.exp(-0.3 * Math.log(old)), 1), 10);
    const sigma = A > 0 ? wide * (1 + 0.03 * A) : wide / (1 + 0.03 * Math.abs(A));
    return Math.exp(d - (Math.expm1(d) / sigma) ** 2 / 2);
  },
  dispo(d, A, old, p) {
    const [low, high] = A > 0 ? [p.eps_low_pos, p.eps_high_pos] : [p.eps_low_neg, p.eps_high_neg];
    if (A === 0) return Math.exp(d);
    return Math.min(Math.max(Math.exp(d), 1 - low), 1 + high);
  },
  icepop: (d, A, old, p) => (outside(d, p.low, p.high) ? 0 : Math.exp(d)),
  dppo(d, A, old, p) {
    const change = Math.min(old * Math.exp(d), 1) - old;
    const size = p.divergence === "tv" ? Math.abs(change) : binaryKL(Math.log(old), Math.log(old) + d);
    if (A * change > 0 && size > p.delta) return 0;
    return Math.exp(Math.min(d, Math.log(p.cap)));
  },
  drpo(d, A, old, p) {
    const change = Math.min(old * Math.exp(d), 1) - old;
    return Math.exp(d) * (1 - (Math.sign(A) * change) / p.eps);
  },
  ipo: (d, A, old, p) => (Math.abs(Math.min(old * Math.exp(d), 1) - old) > p.eps ? 0 : Math.exp(d)),
  kpop(d, A, old, p) {
    const was = Math.log(old);
    return Math.max(binaryKL(was + d, was), binaryKL(was, was + d)) <= p.phi ? Math.exp(d) : 0;
  },
  ripo(d, A, old, p) {
    const eps = Math.sqrt(p.delta / old);
    return outside(d, p.low, p.high) ? 0 : hardClip(d, A, 1 - eps, 1 + eps);
  },
  dcpo(d, A, old, p) {
    const low = (1 + Math.sqrt(Math.max(1 - (4 * p.eps_low) / old, 0))) / 2,
      high = Math.min((1 + Math.sqrt(1 + (4 * p.eps_high) / old)) / 2, p.cap);
    return hardClip(d, A, low, high);
  },
};

const gspo = (ds, A, p) => {
  const mean = sum(ds) / ds.length,
    where = region(mean, A, p.eps_low, p.eps_high);
  return ds.map(() => (where === "LN" || where === "HP" ? 0 : Math.exp(mean)));
};
/**
 * The methods that weigh a sequence: w_log of all its tokens from their Δ. On one token this is their token
 * form.
 */
const OF_SEQUENCE = {
  gspo,
  luspo: gspo,
  vespo(ds, A, p) {
    const logW = sum(ds),
      [k, rate] = A >= 0 ? [p.k_pos, p.lambda_pos] : [p.k_neg, p.lambda_neg];
    return ds.map(() => Math.exp(k * logW - rate * Math.expm1(logW)));
  },
  opsm(ds, A, p) {
    if (A < 0 && -sum(ds) / ds.length > p.delta) return ds.map(() => 0);
    return ds.map((d) => RULES.grpo(d, A, null, p));
  },
  gmpo(ds, A, p) {
    const low = -Math.expm1(-p.eps_low),
      high = Math.expm1(p.eps_high);
    const where = ds.map((d) => region(d, A, low, high));
    const clipped = ds.map((d, i) => ({ LN: -p.eps_low, HP: p.eps_high })[where[i]] ?? d);
    const weight = Math.exp(sum(clipped) / ds.length);
    return where.map((w) => (w === "LN" || w === "HP" ? 0 : weight));
  },
};

const RULES = { ...DIRECT };
for (const [key, log] of Object.entries(BY_REGION)) {
  RULES[key] = (d, A, old, p) => Math.exp((log[region(d, A, p.eps_low, p.eps_high)] ?? ((x) => x))(d, p));
}
for (const [key, all] of Object.entries(OF_SEQUENCE)) RULES[key] = (d, A, old, p) => all([d], A, p)[0];

/**
 * A method with its defaults, overridden by `given`; Error that names the parameter, its value and what is
 * allowed.
 */
export function make(key, given = {}) {
  const known = METHODS[key];
  if (!known) throw new Error(`unknown method ${key}; known: ${Object.keys(METHODS).join(", ")}`);
  const params = {};
  for (const [name, rule] of Object.entries(known.params)) {
    const value = name in given ? given[name] : rule.value;
    const off = value === null && rule.optional;
    if (rule.options && !rule.options.includes(value)) {
      throw new Error(`${known.label}: ${name} = ${value} must be one of ${rule.options.join(", ")}`);
    }
    const inRange = (value > rule.above && value < rule.below) || (rule.infinite && value === Infinity);
    if (!rule.options && !off && !inRange) {
      const end = rule.infinite ? "]" : ")",
        show = (x) => (Math.abs(x) === Infinity ? (x < 0 ? "−∞" : "∞") : x);
      throw new Error(
        `${known.label}: ${name} = ${value} must be a number in (${show(rule.above)}, ${show(rule.below)}${end}`,
      );
    }
    params[name] = value;
  }
  if (params.dual_clip != null && params.dual_clip <= 1 + params.eps_high) {
    const end = +(1 + params.eps_high).toPrecision(4);
    throw new Error(
      `${known.label}: dual_clip = ${params.dual_clip} must be above 1 + ε_high = ${end}, the end of ` +
        `the trust region`,
    );
  }
  const weight = RULES[key] ?? remote(key);
  return { key, label: known.label, params, weight, sequence: OF_SEQUENCE[key], own: !RULES[key] };
}

/** A probability that rounding took to 0 or 1, put back inside. */
export const inside = (p) => Math.min(Math.max(p, 1e-300), 1 - 1e-16);

/** w_log of one token; Error where π_old is no probability, or the weight is NaN. */
export function weigh(method, d, A, old) {
  if (!(old > 0 && old < 1))
    throw new Error(`π_old = ${old}: a probability strictly between 0 and 1 is needed`);
  const w = method.weight(d, A, old, method.params);
  if (Number.isNaN(w) || typeof w !== "number") {
    throw new Error(
      `${method.label}: the weight is ${w} at r = ${Math.exp(d).toPrecision(4)}, A = ${A}, π_old = ${old}`,
    );
  }
  return w;
}

/** w_log of the tokens of one sequence. */
export function weighAll(method, ds, A, olds) {
  if (method.sequence) return method.sequence(ds, A, method.params);
  return ds.map((d, i) => weigh(method, d, A, olds[i]));
}
