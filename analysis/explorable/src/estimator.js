// Bias and variance of a method's gradient, exactly: analysis/estimator.py and the family of analysis/phase.py.
import { softmax } from "./dynamics.js";
import { generator } from "./random.js";
import { inside, weigh } from "./weights.js";

const dot = (a, b) => a.reduce((s, x, i) => s + x * b[i], 0);
const logs = (z) => {
  const { log } = softmax(z);
  return z.map((x) => x - log);
};

function mean(c, p) {
  const total = c.reduce((a, b) => a + b, 0);
  return c.map((x, i) => x - p[i] * total);
}

/** {bias, variance} of one sample's gradient on the logits, relative to the squared true one. */
export function moments(method, zOld, z, A) {
  const oldLog = logs(zOld),
    log = logs(z),
    old = oldLog.map(Math.exp),
    p = log.map(Math.exp);
  const truth = mean(
      p.map((x, i) => x * A[i]),
      p,
    ),
    size = dot(truth, truth),
    square = dot(p, p);
  const w = log.map((x, i) => weigh(method, x - oldLog[i], A[i], inside(old[i])) * A[i]);
  const g = mean(
      old.map((x, i) => x * w[i]),
      p,
    ),
    off = g.map((x, i) => x - truth[i]);
  const second = old.reduce((s, x, i) => s + x * w[i] * w[i] * (1 - 2 * p[i] + square), 0);
  return { bias: dot(off, off) / size, variance: (second - dot(g, g)) / size };
}

/** Policies over `tokens` tokens, one good token each, group advantages, moved along them: good up, bad down. */
export function family(policies = 40, tokens = 64, seed = 0) {
  const random = generator(seed),
    fill = (f) => Array.from({ length: tokens }, f);
  return Array.from({ length: policies }, () => {
    const z = fill(() => 2 * random.normal()),
      success = fill(() => 0.3 * random.uniform());
    success[Math.floor(random.uniform() * tokens)] = 0.9;
    const { p } = softmax(z),
      baseline = dot(p, success);
    const raw = success.map((x) => x - baseline),
      std = Math.sqrt(
        dot(
          p,
          raw.map((x) => x * x),
        ),
      );
    const A = raw.map((x) => x / std);
    return { z, A, direction: A.map((x) => Math.sign(x) * random.uniform()) };
  });
}

/** The logits at KL(π_old ‖ π) = distance along the policy's direction, by bisection. */
export function moved({ z, direction }, distance) {
  const old = softmax(z).p,
    oldLog = logs(z),
    at = (t) => z.map((x, i) => x + t * direction[i]);
  const far = (t) => {
    const l = logs(at(t));
    return old.reduce((s, p, i) => s + p * (oldLog[i] - l[i]), 0) >= distance;
  };
  let low = 0,
    high = 1e-3;
  while (!far(high)) high *= 2;
  for (let i = 0; i < 40; i++) {
    const middle = (low + high) / 2;
    if (far(middle)) high = middle;
    else low = middle;
  }
  return at(high);
}

/** The median over policies of bias + variance / N, for each N of `samples`. */
export function errors(all, samples) {
  return samples.map((n) => median(all.map((m) => m.bias + m.variance / n)));
}

export function median(values) {
  const sorted = [...values].sort((a, b) => a - b),
    half = sorted.length / 2;
  return sorted.length % 2 ? sorted[Math.floor(half)] : (sorted[half - 1] + sorted[half]) / 2;
}
