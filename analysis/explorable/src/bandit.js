// A policy that learns: the loop of analysis/bandit.py with the same random numbers, so that one seed gives
// one trajectory. With `length` 1 it is that bandit; a longer answer is right where every token is, and all
// its tokens share its advantage.
import { generator } from "./random.js";
import { inside, weigh, weighAll } from "./weights.js";

export const BANDIT = {
  arms: 32,
  length: 1,
  best: 0.9,
  others: 0.3,
  pBest: null,
  flip: 0,
  groups: 4,
  group: 8,
  minibatches: 16,
  lr: 1,
};

/**
 * Learners of several methods on the same `seeds` problems. `step()` makes one; `history` holds a row a
 * step before it.
 */
export function learn(methods, setting = {}, seeds = 1, seed = 0) {
  const s = { ...BANDIT, ...setting },
    random = Array.from({ length: seeds }, (_, b) => generator(seed * 2 ** 20 + b)), // a stream for each
    count = s.groups * s.group,
    cells = s.length * s.arms;
  for (const [name, value] of [
    ["seed", seed],
    ["updates", s.minibatches],
  ]) {
    if (!Number.isInteger(value) || value < 0)
      throw new Error(`${name} = ${value}: a whole number is needed`);
  }
  if (!(s.lr > 0 && s.lr < Infinity)) throw new Error(`learning rate = ${s.lr}: a positive number is needed`);
  if (s.minibatches < 1 || count % s.minibatches)
    throw new Error(`updates = ${s.minibatches} must divide the ${count} samples`);
  const problems = random.map((own) => draw(s, own));
  const policies = methods.map(() => problems.map((p) => Float64Array.from(p.logits)));
  const history = methods.map(() => []);
  record();

  function record() {
    methods.forEach((_, m) =>
      history[m].push(problems.map((problem, b) => measure(policies[m][b], problem, s))),
    );
  }

  function step() {
    const numbers = random.map((own) =>
      [count * s.length, count, count].map((size) => own.rand(size)),
    );
    methods.forEach((method, m) =>
      problems.forEach((problem, b) => {
        const z = policies[m][b],
          [u, luck, flips] = numbers[b];
        const samples = sample(z, u, s);
        const rewards = samples.map(({ arm }, i) => {
          const paid = luck[i] < payment(arm, problem, s) ? 1 : 0;
          return flips[i] < s.flip ? 1 - paid : paid;
        });
        update(method, z, samples, advantages(rewards, s.group), s);
        if (!z.every(Number.isFinite))
          throw new Error(`${method.label}: its weights made the logits NaN or infinite`);
      }),
    );
    record();
  }

  return { step, history, policies, problems, setting: s, cells };
}

/** A problem: means and good arms, and the starting logits. For longer answers each position has its good arm. */
function draw(s, random) {
  const cells = s.arms * s.length,
    ranks = random.rand(cells),
    mean = Array.from(random.rand(cells), (x) => x * s.others),
    good = new Array(cells).fill(false),
    share = s.pBest ?? 1 / s.arms;
  for (let t = 0; t < s.length; t++) {
    const own = Array.from(ranks.subarray(t * s.arms, (t + 1) * s.arms));
    const order = own.map((_, i) => i).sort((i, j) => own[i] - own[j]);
    good[t * s.arms + order.indexOf(0)] = true;
  }
  good.forEach((g, i) => {
    if (g) mean[i] = s.best;
  });
  const logits = good.map((g) => Math.log(g ? share : (1 - share) / (s.arms - 1)));
  return { good, mean, logits };
}

function payment(arm, { good, mean }, s) {
  if (s.length === 1) return mean[arm[0]];
  return arm.every((a, t) => good[t * s.arms + a]) ? s.best : 0;
}

/** e^(z − max) of position t, and their sum. Plain loops: a figure calls this a hundred thousand times. */
function exponentials(z, t, s) {
  const e = new Float64Array(s.arms),
    from = t * s.arms;
  let top = -Infinity,
    total = 0;
  for (let k = 0; k < s.arms; k++) top = Math.max(top, z[from + k]);
  for (let k = 0; k < s.arms; k++) total += e[k] = Math.exp(z[from + k] - top);
  return { e, total };
}

const positions = (z, s) => Array.from({ length: s.length }, (_, t) => exponentials(z, t, s));

function sample(z, u, s) {
  const now = positions(z, s);
  return Array.from({ length: u.length / s.length }, (_, i) => {
    const arm = now.map(({ e, total }, t) => pick(e, u[i * s.length + t] * total));
    return { arm, old: arm.map((a, t) => Math.log(now[t].e[a] / now[t].total)) };
  });
}

function pick(e, target) {
  let sum = 0;
  for (let k = 0; k < e.length; k++) if ((sum += e[k]) > target) return k;
  return e.length - 1;
}

/** (R − mean) / (std + 1e-6) within groups, the sample's std; 0 where all are equal. */
function advantages(rewards, size) {
  return rewards.map((r, i) => {
    const group = rewards.slice(i - (i % size), i - (i % size) + size),
      mean = group.reduce((a, b) => a + b, 0) / size;
    if (group.every((x) => x === group[0])) return 0;
    return (r - mean) / (Math.sqrt(group.reduce((a, x) => a + (x - mean) ** 2, 0) / (size - 1)) + 1e-6);
  });
}

/** One pass over the samples in minibatches: ascents on the mean of A · w_log · log π over their tokens. */
function update(method, z, samples, A, s) {
  const size = samples.length / s.minibatches,
    rate = s.lr / size;
  for (let start = 0; start < samples.length; start += size) {
    const now = positions(z, s),
      push = now.map(() => 0),
      kicks = [];
    for (let i = start; i < start + size; i++) {
      if (A[i] === 0) continue;
      const { arm, old } = samples[i],
        before = old.map((x) => inside(Math.exp(x)));
      const ds = start
        ? arm.map((a, t) => Math.log(Math.max(now[t].e[a] / now[t].total, 1e-300)) - old[t])
        : old.map(() => 0);
      const w = s.length === 1 ? [weigh(method, ds[0], A[i], before[0])] : weighAll(method, ds, A[i], before);
      w.forEach((x, t) => {
        push[t] += x * A[i] * rate;
        kicks.push([t * s.arms + arm[t], x * A[i] * rate]);
      });
    }
    now.forEach(({ e, total }, t) => {
      for (let k = 0; k < s.arms; k++) z[t * s.arms + k] -= (e[k] * push[t]) / total;
    });
    for (const [at, kick] of kicks) z[at] += kick;
  }
}

/** Regret, entropy (nats a token) and the probability of the right answer. */
function measure(z, { good, mean }, s) {
  let right = 1,
    entropy = 0,
    paid = 0;
  positions(z, s).forEach(({ e, total }, t) =>
    e.forEach((x, k) => {
      const p = x / total,
        at = t * s.arms + k;
      if (p > 0) entropy -= (p * Math.log(p)) / s.length;
      paid += p * mean[at];
      if (good[at]) right *= p;
    }),
  );
  return { right, entropy, regret: s.best - (s.length === 1 ? paid : s.best * right) };
}
