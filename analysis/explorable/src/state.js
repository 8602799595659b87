// Everything that the reader can set, in one table. A line of text holds what differs from the defaults.
import { METHODS } from "./data.js";
import { make } from "./weights.js";

// `help` says in words what a letter means: it is shown beside a dial that is touched.
const number = (value, min, max, step, label, more = {}) => ({ value, min, max, step, label, ...more });
const choice = (value, options, label) => ({ value, options, label });

export const FIELDS = {
  // act 1
  w: number(0.8, 0, 3, 0.05, "weight on ∇log π"),
  p: number(0.2, 0.001, 0.9, 0.01, "probability π of the token", { log: true }),
  a: choice("-1", { "-1": "bad (A < 0)", 1: "good (A > 0)" }, "The token was"),
  // the dials of the methods, for acts 2 to 5
  el: number(0.2, 0.01, 0.9, 0.01, "ε low", {
    help: "The trust region begins at r = 1 − ε low: below it a bad token has fallen far enough for a clip to act.",
  }),
  eh: number(0.2, 0.01, 0.9, 0.01, "ε high", {
    help: "The trust region ends at r = 1 + ε high: above it a good token has risen far enough for a clip to act.",
  }),
  n: number(1, 0.1, 8, 0.1, "n, DGPO’s left decay", {
    method: "dgpo",
    help: "How fast the weight on ∇π fades as a bad token vanishes: as π to the power n. Towards 0 it is unclipped.",
  }),
  m: number(2, 0.5, 8, 0.1, "m, DGPO’s right decay", {
    method: "dgpo",
    help: "How fast the weight on ∇π fades as a good token rises: as r to the power −1/m. m = 1 is GPPO there.",
  }),
  beta: number(0.75, 0.05, 2, 0.05, "β, CE-GPPO’s left scale", {
    method: "ce_gppo",
    help: "CE-GPPO’s weight on a bad token that has left the trust region, in units of GPPO’s.",
  }),
  c: number(10, 2, 20, 0.5, "c, the dual clip", {
    help: "Where a bad token that has become likelier is stopped: at r = c. GPPO, CE-GPPO and ASPO have one here.",
  }),
  cap: number(5, 1, 20, 0.5, "cap of CISPO (cap)", {
    method: "cispo_cap",
    help: "The most that a token’s ratio may count for, in ScaleRL’s CISPO, which has no lower bound.",
  }),
  show: { value: "dgpo,grpo,cispo,gppo,ce_gppo,aspo,pg", list: Object.keys(METHODS), label: "Methods" },
  // act 2
  r: number(0.3, 0.01, 100, 0.01, "ratio r = π/π_old", {
    log: true,
    help: "The token’s probability now, over its probability when it was sampled. 1 has not moved.",
  }),
  pi: number(0.05, 0.0001, 0.9, 0.01, "π_old", {
    log: true,
    help: "The token’s probability when it was sampled. The ratio cannot exceed 1/π_old.",
  }),
  s: choice("-1", { "-1": "bad (A < 0)", 1: "good (A > 0)" }, "The token was"),
  // act 3
  p3: number(0.05, 0.001, 0.3, 0.01, "π at the start", { log: true }),
  s3: choice("-1", { "-1": "bad: it falls", 1: "good: it rises" }, "The token is"),
  k: choice("1", { 1: "one", 2: "two", 4: "four" }, "Tokens pushed at once"),
  fresh: choice("0", { 0: "frozen", 64: "every 64", 8: "every 8 updates" }, "π_old is refreshed"),
  lr: number(0.2, 0.01, 1, 0.01, "learning rate", { log: true }),
  // act 4
  d: number(0.3, 0.001, 1, 0.01, "distance from π_old, nats", { log: true }),
  N: number(64, 1, 100000, 1, "samples in the batch", { log: true }),
  // act 5
  world: choice(
    "noisy",
    { plain: "plain", noisy: "noisy verifier", rare: "rare good arm", answer: "four-token answers" },
    "World",
  ),
  u: choice("16", { 1: "1", 4: "4", 16: "16", 32: "32" }, "Updates a batch"),
  lr5: number(1, 0.1, 4, 0.1, "learning rate", { log: true }),
  seed: number(0, 0, 999, 1, "seed"),
  y: choice(
    "right",
    { right: "probability of the right answer", entropy: "entropy", regret: "regret" },
    "Draw",
  ),
  // the explorer in a notebook
  view: choice(
    "weight",
    {
      weight: "The weight",
      race: "What vanishes",
      error: "Bias and variance",
      learn: "A policy learns",
      run: "Your run",
    },
    "View",
  ),
  tok: number(-1, -1, Infinity, 1, "token"),
  // one character an act: the reader's prediction, or - where there is none yet
  guess: { value: "------", label: "predictions" },
};

export const PRESETS = {
  "The paper’s six": { show: "dgpo,grpo,cispo,gppo,ce_gppo,aspo" },
  "DAPO’s clip-higher": { eh: 0.28, show: "grpo,pg", s: "1", r: 2 },
  "ScaleRL’s CISPO": { cap: 5, show: "cispo_cap,cispo,pg", s: "1", r: 8, pi: 0.02 },
  "Our fresh runs": { c: 3, show: "grpo,dgpo,cispo,ce_gppo,gppo" },
  "Smooth gates": { show: "sapo,maspo,dppo,drpo,dgpo,pg" },
};

export const state = defaults();
const listeners = [];

export const onChange = (listener) => listeners.push(listener);

/** Set fields; figures that use one of them are drawn in the next frame. */
export function set(values) {
  const changed = Object.keys(values).filter((key) => state[key] !== values[key]);
  Object.assign(state, values);
  if (!changed.length) return;
  for (const listener of listeners) listener(new Set(changed));
}

/** The defaults; predictions that were made stay. */
export function reset() {
  set({ ...defaults(), guess: state.guess });
}

export function defaults() {
  return Object.fromEntries(Object.entries(FIELDS).map(([key, field]) => [key, field.value]));
}

/** A preset: the dials at their defaults but for its own. */
export function apply(name) {
  const dials = [...DIALS, "r", "pi", "s"];
  set({ ...Object.fromEntries(dials.map((key) => [key, FIELDS[key].value])), ...PRESETS[name] });
}

export function load(hash) {
  const given = Object.fromEntries(new URLSearchParams(hash.replace(/^#/, "")));
  const values = defaults();
  for (const [key, text] of Object.entries(given)) {
    const field = FIELDS[key];
    if (!field) continue;
    if (typeof field.value === "number") values[key] = text === "inf" ? Infinity : Number(text);
    else if (field.options) values[key] = text in field.options ? text : field.value;
    else if (field.list)
      values[key] = text
        .split(",")
        .filter((k) => field.list.includes(k))
        .join(",");
    else values[key] = /^[0-9-]{6}$/.test(text) ? text : field.value;
  }
  set(values);
}

/** What differs from the defaults, as `load` reads it. */
export function written() {
  const differing = Object.entries(state).filter(([key, value]) => value !== FIELDS[key].value);
  const text = new URLSearchParams(differing.map(([k, v]) => [k, v === Infinity ? "inf" : v])).toString();
  return text.replaceAll("%2C", ",");
}

/** Which parameter of a method a dial sets. GRPO keeps its dual clip off, and all share ε. */
const DIAL_OF = {
  el: "eps_low",
  eh: "eps_high",
  n: "n",
  m: "m",
  beta: "beta_low",
  c: "dual_clip",
  cap: "cap",
};
const OWN = {
  grpo: ["c"],
  opsm: ["c"],
  dppo: ["cap"],
  dcpo: ["el", "eh", "cap"],
  gspo: ["el", "eh"],
  luspo: ["el", "eh"],
  gmpo: ["el", "eh"],
}; // dials that these do not follow
/** The dials of the reader's own methods: name → [method, parameter]. */
export const OWN_DIALS = {};
for (const [key, { own, label, params }] of Object.entries(METHODS)) {
  for (const [name, { value, above, below }] of own ? Object.entries(params) : []) {
    if (Object.values(DIAL_OF).includes(name)) continue;
    const size = Math.abs(value) || 1,
      min = Number.isFinite(above) ? above + size / 20 : value - 2 * size,
      max = Number.isFinite(below) ? below - size / 20 : value + 3 * size;
    OWN_DIALS[`${key}.${name}`] = [key, name];
    FIELDS[`${key}.${name}`] = number(value, min, max, size / 20, `${name} of ${label}`, { method: key });
  }
}
Object.assign(state, defaults());
export const DIALS = [...Object.keys(DIAL_OF), ...Object.keys(OWN_DIALS), "show"];

/** One method at the dials. */
export function method(key) {
  const params = {};
  for (const [dial, name] of Object.entries(DIAL_OF)) {
    if (name in METHODS[key].params && !(OWN[key] || []).includes(dial)) params[name] = state[dial];
  }
  for (const [dial, [owner, name]] of Object.entries(OWN_DIALS))
    if (owner === key) params[name] = state[dial];
  return make(key, params);
}

/** The methods shown, in the order of the registry. */
export function shown() {
  const chosen = state.show.split(",");
  const keys = Object.keys(METHODS).filter((key) => chosen.includes(key));
  if (!keys.length) throw new Error("No method is chosen: choose one above.");
  return keys.map(method);
}

/** Those of them whose weights need no answer from Python, for figures that compute step by step. */
export function computed() {
  const found = shown().filter(({ own }) => !own);
  if (!found.length)
    throw new Error("This figure computes in the browser: choose one of the suite’s methods.");
  return found;
}
