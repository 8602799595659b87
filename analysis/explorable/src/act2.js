// Act 2: the weight over the ratio, twice, and figure 1 of the paper: what each method does at this very r.
import { chips, choice, dials, player, slider } from "./controls.js";
import { axes, dot, el, labels, line, rule, scale, show, text } from "./plot.js";
import { DIALS, set, shown, state } from "./state.js";
import { METHODS } from "./data.js";
import { weigh } from "./weights.js";

const LOW = 1e-3,
  HIGH = 1e3,
  POINTS = 240,
  NAMES = 124;

const clamp = (x, low, high) => Math.min(Math.max(x, low), high);

/** Where the panels stand: side by side if there is room. Names go to the side where A drives the token. */
function layout(width, A, pi) {
  const wide = width > 660,
    each = wide ? (width - 24) / 2 : width,
    high = wide ? 270 : 210;
  return [0, 1].map((i) => {
    const left = 44 + (wide ? i * (each + 24) : 0),
      right = left + each - 50,
      top = 40 + (wide ? 0 : i * (high + 122));
    const [from, to] = A < 0 ? [left + NAMES, right] : [left, right - NAMES];
    return {
      left,
      right,
      top,
      bottom: top + high,
      x: scale(0.01, Math.max(Math.min(100, 1 / pi), 1.5), from, to, { log: true }),
    };
  });
}

/** One way to write the weight: `of` makes it from w_log and r. */
function panel({ left, right, top, bottom, x }, { title, of, methods, A }) {
  const y = scale(LOW, HIGH, bottom, top, { log: true, ticks: [1e-3, 1e-2, 0.1, 1, 10, 100, 1000] });
  const zero = bottom + 22,
    height = (w) => (w <= 0 ? zero : y(clamp(w, LOW, HIGH)));
  const value = (method, r) => of(weigh(method, Math.log(r), A, state.pi), r),
    end = A < 0 ? x.low : x.high;
  const curves = methods.map((method) => {
    const points = [];
    for (let i = 0, before; i <= POINTS; i++) {
      const r = x.low * (x.high / x.low) ** (i / POINTS),
        w = value(method, r);
      if (i && before > 0 !== w > 0) points.push(null); // a jump to or from 0 is no slope
      points.push(w > 0 && (w < LOW || w > HIGH) ? null : [x(r), height(w)]);
      before = w;
    }
    return line(points, method.key, { dash: METHODS[method.key].dash });
  });
  const names = methods.map((method) => {
    const w = value(method, end),
      beyond = w > HIGH ? " ↑" : w > 0 && w < LOW ? " ↓" : "";
    return { key: method.key, text: method.label + beyond, y: height(w) };
  });
  const [from, to] = [1 - state.el, 1 + state.eh].map((r) => x(clamp(r, x.low, x.high)));
  const here = x(clamp(state.r, x.low, x.high));
  const dots = methods.map((method) => dot(here, height(value(method, state.r)), method.key));
  return (
    el("rect", { class: "trust", x: from, width: Math.max(0, to - from), y: top, height: zero - top }) +
    axes(x, y, { xTitle: "ratio r = π/π_old", yTitle: title, left, right, bottom: zero }) +
    text(left - 8, zero + 4, "0", { cls: "tick", anchor: "end" }) +
    curves.join("") +
    rule(here, top - 4, here, zero, "cursor") +
    dots.join("") +
    labels(names, x(end), top, zero, A < 0 ? -1 : 1)
  );
}

/** In words, from the numbers alone. */
export function doing(w, r) {
  const gate = w / r;
  if (w < 0) return "pulls back";
  if (w === 0) return "stops";
  if (gate > 1.02) return "pushes harder";
  return gate > 0.98 ? "as unclipped" : "slows down";
}

function lanes(methods, A, top, width) {
  const left = 118,
    right = width - 178,
    x = scale(0, 3, left, right);
  const rows = methods.map((method, i) => {
    const w = weigh(method, Math.log(state.r), A, state.pi),
      gate = w / state.r,
      y = top + 34 + i * 26;
    const to = x(clamp(gate, -0.1, 3)),
      paint = `var(--${method.key})`;
    const value = gate > 3 ? `×${show(gate)}` : show(+gate.toPrecision(2));
    return (
      text(left - 12, y + 4, method.label, { cls: "name", anchor: "end" }) +
      rule(left, y, right, y, "track") +
      el("line", { class: "push", x1: left, x2: to, y1: y, y2: y, stroke: paint }) +
      (w === 0 ? "" : el("path", { d: `M${to} ${y - 8}l12 8l-12 8z`, fill: paint })) +
      text(right + 22, y + 4, value, { cls: "value" }) +
      text(right + 72, y + 4, doing(w, state.r))
    );
  });
  const one = x(1),
    end = top + 34 + methods.length * 26;
  const title = text(14, top + 4, `the push on ∇π at r = ${show(state.r)}, unclipped = 1`, { cls: "title" });
  return { svg: title + rule(one, top + 16, one, end - 8, "cursor") + rows.join(""), height: end };
}

/** Both charts over the lanes of pushes; a talk shows one of them at a time. */
function draw(width, { charts, push }) {
  const methods = shown(),
    A = Number(state.s),
    { r, pi } = state;
  if (!(pi > 0 && pi < 1))
    throw new Error(`π_old = ${pi}: a probability strictly between 0 and 1 is needed.`);
  if (!(r > 0 && r < Infinity)) throw new Error(`r = ${r}: a positive ratio is needed.`);
  const [one, two] = layout(width, A, pi);
  const curves =
    panel(one, { title: "weight on ∇log π", of: (w) => w, methods, A }) +
    panel(two, { title: "weight on ∇π, in units of 1/π_old", of: (w, ratio) => w / ratio, methods, A });
  const row = lanes(methods, A, charts ? two.bottom + 96 : 12, width);
  const words = methods.map((m) => `${m.label} ${doing(weigh(m, Math.log(r), A, pi), r)}`);
  return {
    svg: (charts ? curves : "") + (push ? row.svg : ""),
    height: push ? row.height : two.bottom + 66,
    label: [
      charts && "Two charts of the weight of each method against the ratio.",
      push && "A lane a method with its push at the chosen ratio.",
    ]
      .filter(Boolean)
      .join(" "),
    say: `At r = ${show(r)}, ${A < 0 ? "a bad token" : "a good token"}: ${words.join(", ")}.`,
  };
}

export const act2 = {
  uses: [...DIALS, "r", "pi", "s"],
  build(redraw, { settings = true, charts = true, push = true } = {}) {
    const sweep = player("Move r", 4, (share) =>
      set({ r: +((state.s === "-1" ? 0.02 : Math.min(30, 1 / state.pi)) ** share).toPrecision(3) }),
    );
    const drag = (at, width) => {
      sweep.stop();
      const [one, two] = layout(width, Number(state.s), state.pi);
      const { x } = one.left !== two.left && at > two.left - 44 ? two : one;
      set({ r: +x.invert(clamp(at, x.from, x.to)).toPrecision(3) });
    };
    return {
      above: settings ? [chips()] : [],
      drag: charts && drag,
      stop: sweep.stop,
      draw: (width) => draw(width, { charts, push }),
      controls: [choice("s"), sweep.it, slider("r"), slider("pi"), ...(settings ? dials() : [])],
    };
  },
  predict: {
    question:
      "A bad token has already fallen to a third of where it was. Which clip pushes it hardest, measured on ∇π?",
    options: ["GRPO, the hard clip", "CISPO, a soft clip", "DGPO", "no clip at all"],
    right: 1,
    answer:
      "The hard clip stops. CISPO holds the weight on ∇log π level, and so on ∇π it grows as 1/r: it " +
      "pushes harder than no clip at all. DGPO slows down as rⁿ.",
  },
};
