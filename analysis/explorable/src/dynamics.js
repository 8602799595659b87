// What the same update, again and again, does to a softmax: analysis/flow.py `ascent`, with several tokens
// and a fresh π_old.
import { inside, weigh } from "./weights.js";

export const OTHERS = 31;

/** Probabilities of logits, and the log of their sum of exponentials. */
export function softmax(z) {
  const top = Math.max(...z),
    e = z.map((x) => Math.exp(x - top)),
    total = e.reduce((a, b) => a + b, 0);
  return { p: e.map((x) => x / total), log: Math.log(total) + top };
}

/**
 * Push `tokens` tokens by gradient ascent on A · w_log · log π, all in each update. The first starts at piOld,
 * each further one at a quarter of the one before; the rest is spread evenly over 31 others.
 * refresh: updates after which π_old is set to π; 0 keeps it.
 * Returns log π of each token after 0, 1, … steps updates.
 */
export function ascent(method, { steps, lr, piOld, A = -1, tokens = 1, refresh = 0 }) {
  const start = Array.from({ length: tokens }, (_, i) => piOld / 4 ** i);
  const rest = 1 - start.reduce((a, b) => a + b, 0);
  if (!(piOld > 0 && rest > 0))
    throw new Error(`π_old = ${piOld}: a probability strictly between 0 and 1 is needed`);
  const z = [...start.map(Math.log), ...new Array(OTHERS).fill(Math.log(rest / OTHERS))];
  let old = start.map(Math.log);
  const path = start.map((p) => [Math.log(p)]);
  for (let step = 1; step <= steps; step++) {
    const { p, log } = softmax(z);
    const w = old.map((o, i) => weigh(method, z[i] - log - o, A, inside(Math.exp(o))) * A * lr);
    const total = w.reduce((a, b) => a + b, 0);
    for (let k = 0; k < z.length; k++) z[k] -= total * p[k];
    w.forEach((push, i) => (z[i] += push));
    const after = softmax(z).log,
      now = old.map((_, i) => z[i] - after);
    now.forEach((x, i) => path[i].push(x));
    if (refresh && step % refresh === 0) old = now;
  }
  return path;
}
