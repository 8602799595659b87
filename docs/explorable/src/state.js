// Everything that the reader can set, in one table. The address after # holds what differs from the defaults.
import { METHODS } from "./data.js";
import { make } from "./weights.js";

const number = (value, min, max, step, label, more = {}) => ({ value, min, max, step, label, ...more });
const choice = (value, options, label) => ({ value, options, label });

export const FIELDS = {
  // act 1
  w: number(0.8, 0, 3, 0.05, "weight on ∇log π"),
  p: number(0.2, 0.001, 0.9, 0.01, "probability π of the token", { log: true }),
  a: choice("-1", { "-1": "bad (A < 0)", 1: "good (A > 0)" }, "The token was"),
  // the dials of the methods, for acts 2 to 5
  el: number(0.2, 0.01, 0.9, 0.01, "ε low"),
  eh: number(0.2, 0.01, 0.9, 0.01, "ε high"),
  n: number(1, 0.1, 8, 0.1, "n, DGPO’s left decay", { method: "dgpo" }),
  m: number(2, 0.5, 8, 0.1, "m, DGPO’s right decay", { method: "dgpo" }),
  beta: number(0.75, 0.05, 2, 0.05, "β, CE-GPPO’s left scale", { method: "ce_gppo" }),
  c: number(10, 2, 20, 0.5, "c, the dual clip"),
  cap: number(5, 1, 20, 0.5, "cap of CISPO (cap)", { method: "cispo_cap" }),
  show: { value: "dgpo,grpo,cispo,gppo,ce_gppo,aspo,pg", list: Object.keys(METHODS), label: "Methods" },
  // act 2
  r: number(0.3, 0.01, 100, 0.01, "ratio r = π/π_old", { log: true }),
  pi: number(0.05, 0.0001, 0.9, 0.01, "π_old", { log: true }),
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
let saving = 0;

export const onChange = (listener) => listeners.push(listener);

/** Set fields; figures that use one of them are drawn in the next frame. */
export function set(values) {
  const changed = Object.keys(values).filter((key) => state[key] !== values[key]);
  Object.assign(state, values);
  if (!changed.length) return;
  clearTimeout(saving);
  saving = setTimeout(link, 150); // browsers allow few changes of the address a second
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
  const dials = Object.keys(DIAL_OF).concat("show", "r", "pi", "s");
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

/** The address that holds the state; the address bar shows it from now on. */
export function link() {
  const differing = Object.entries(state).filter(([key, value]) => value !== FIELDS[key].value);
  const text = new URLSearchParams(differing.map(([k, v]) => [k, v === Infinity ? "inf" : v])).toString();
  const hash = text ? "#" + text.replaceAll("%2C", ",") : "#";
  if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
  return location.href;
}

/** Which parameter of a method a dial sets. As in notebook 5, GRPO keeps its dual clip off, and all share ε. */
const DIAL_OF = {
  el: "eps_low",
  eh: "eps_high",
  n: "n",
  m: "m",
  beta: "beta_low",
  c: "dual_clip",
  cap: "cap",
};
export const DIALS = [...Object.keys(DIAL_OF), "show"];
const OWN = {
  grpo: ["c"],
  opsm: ["c"],
  dppo: ["cap"],
  dcpo: ["el", "eh", "cap"],
  gspo: ["el", "eh"],
  luspo: ["el", "eh"],
  gmpo: ["el", "eh"],
}; // dials that these do not follow

/** One method at the dials. */
export function method(key) {
  const params = {};
  for (const [dial, name] of Object.entries(DIAL_OF)) {
    if (name in METHODS[key].params && !(OWN[key] || []).includes(dial)) params[name] = state[dial];
  }
  return make(key, params);
}

/** The methods shown, in the order of the registry. */
export function shown() {
  const chosen = state.show.split(",");
  const keys = Object.keys(METHODS).filter((key) => chosen.includes(key));
  if (!keys.length) throw new Error("No method is chosen: choose one in act 2.");
  return keys.map(method);
}
