// What the reader touches: sliders with a box to type in, choices, method chips, predictions. All are native
// inputs.
import { METHODS } from "./data.js";
import { DIALS, FIELDS, PRESETS, apply, onChange, reset, set, state } from "./state.js";
import { show } from "./plot.js";

/** An element: h("p", {class: "x", onclick: f}, "text", child). */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** The label with the index of π_old set as one. */
export const spelled = (text) =>
  text.split("_old").flatMap((part, i) => (i ? [h("sub", {}, "old"), part] : [part]));

const sync = (keys, update) => {
  onChange((changed) => {
    if (keys.some((key) => changed.has(key))) update();
  });
  update();
};

/** A range, and a box beside it that takes values that the range does not have. */
export function slider(key) {
  const { min, max, step, label, log, method, help } = FIELDS[key],
    f = log ? Math.log10 : (x) => x,
    whole = step === 1;
  const meant = () => {
    const x = log ? +(10 ** range.value).toPrecision(3) : +range.value;
    return whole ? Math.round(x) : x;
  };
  const range = h("input", {
    type: "range",
    id: `range-${key}`,
    min: f(min),
    max: f(max),
    step: log ? (f(max) - f(min)) / 100 : step,
    "aria-description": help,
    oninput: () => set({ [key]: meant() }),
  });
  const box = h("input", {
    type: "text",
    inputmode: "decimal",
    id: `box-${key}`,
    "aria-label": `${label}, typed`,
    onchange: () => set({ [key]: parse(box.value) }),
  });
  sync([key], () => {
    if (meant() !== state[key]) range.value = f(state[key]); // else the place between two values is the reader's
    range.setAttribute("aria-valuetext", show(state[key]));
    box.value = state[key] === Infinity ? "inf" : String(state[key]);
  });
  const style = method ? `--method:var(--${method})` : null;
  return h(
    "div",
    { class: "slider", style, "data-help": help },
    h("label", { for: `range-${key}` }, ...spelled(label)),
    range,
    box,
  );
}

/** Every dial of the methods. */
export const dials = () => DIALS.filter((key) => key !== "show").map(slider);

const parse = (text) =>
  /^\s*(inf|∞)/.test(text) ? Infinity : text.trim() ? Number(text.replace(",", ".")) : NaN;

export function choice(key) {
  const { options, label } = FIELDS[key],
    inputs = {};
  const items = Object.entries(options)
    .map(([value, text]) => {
      inputs[value] = h("input", {
        type: "radio",
        name: key,
        value,
        id: `${key}-${value}`,
        onchange: () => set({ [key]: value }),
      });
      return h("label", { class: "option" }, inputs[value], h("span", {}, text));
    })
    .sort((a, b) => order(a, options) - order(b, options));
  sync([key], () => {
    if (inputs[state[key]]) inputs[state[key]].checked = true;
  });
  return h(
    "fieldset",
    { class: "choice" },
    h("legend", {}, ...spelled(label)),
    h("div", { class: "options" }, ...items),
  );
}

// Objects list whole-number keys first: put "-1" before "1" as the table has it.
const order = (item, options) =>
  Object.keys(options).includes("-1") && item.querySelector("input").value === "-1" ? -1 : 0;

/** A toggle a method, in its colour. */
export function chips(legend = "Methods, in every act") {
  const boxes = {};
  const items = Object.entries(METHODS).map(([key, { label }]) => {
    boxes[key] = h("input", { type: "checkbox", value: key, onchange: () => toggle(key) });
    return h(
      "label",
      { class: "chip", style: `--method:var(--${key});--method-text:var(--${key}-text)` },
      boxes[key],
      h("span", {}, label),
    );
  });
  sync(["show"], () => {
    const chosen = state.show.split(",");
    for (const key in boxes) boxes[key].checked = chosen.includes(key);
  });
  return h("fieldset", { class: "chips" }, h("legend", {}, legend), ...items);
}

function toggle(key) {
  const chosen = state.show.split(",").filter(Boolean);
  set({ show: (chosen.includes(key) ? chosen.filter((k) => k !== key) : [...chosen, key]).join(",") });
}

export const button = (text, onclick, more = {}) => h("button", { type: "button", onclick, ...more }, text);

/** A button for each preset, and one for the defaults. */
export function presets() {
  const items = Object.keys(PRESETS).map((name) => button(name, () => apply(name), { class: "preset" }));
  return [...items, button("Reset", reset, { id: "reset" })];
}

/** A question before its figure: choosing an answer, or passing, opens the figure and says what is so. */
export function prediction(act, { question, options, right, answer }, figure) {
  const choose = (i) => set({ guess: state.guess.slice(0, act - 1) + i + state.guess.slice(act) });
  const items = options.map((text, i) => button(text, () => choose(i), { class: "answer" }));
  const pass = button("Just show me", () => choose(9), { class: "pass" });
  const verdict = h("p", { class: "verdict", role: "status" });
  sync(["guess"], () => {
    const made = state.guess[act - 1],
      open = made !== "-";
    figure.classList.toggle("veiled", !open);
    figure.querySelector(".body").inert = !open;
    pass.hidden = open;
    items.forEach((item, i) => {
      item.classList.toggle("right", open && i === right);
      item.classList.toggle("wrong", open && i === +made && i !== right);
      item.setAttribute("aria-pressed", String(open && i === +made));
    });
    verdict.replaceChildren();
    if (open)
      verdict.append(h("strong", {}, +made === right ? "Yes. " : +made === 9 ? "" : "Not quite. "), answer);
  });
  return h(
    "div",
    { class: "predict", role: "group", "aria-label": "Prediction" },
    h("p", { class: "question" }, h("span", {}, "Predict"), question),
    ...items,
    pass,
    verdict,
  );
}

/**
 * A button that calls tick(share of `seconds` gone) once a frame until 1; at once with 1 for readers who
 * want no motion.
 */
export function player(name, seconds, tick) {
  let running = 0,
    begun = 0;
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const stop = () => {
    cancelAnimationFrame(running);
    running = 0;
    it.textContent = `▶ ${name}`;
  };
  const frame = (now) => {
    begun = begun || now;
    const share = Math.min(1, (now - begun) / 1000 / seconds);
    running = requestAnimationFrame(frame);
    tick(share);
    if (share === 1) stop();
  };
  const it = button(
    `▶ ${name}`,
    () => {
      if (running) return stop();
      if (still.matches) return tick(1);
      begun = 0;
      it.textContent = "❚❚ Pause";
      running = requestAnimationFrame(frame);
    },
    { class: "play" },
  );
  return { it, stop };
}
