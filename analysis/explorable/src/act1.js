// Act 1: one token, one update. The bars are the policy before and after; the gauges hold the one weight,
// written twice.
import { choice, slider } from "./controls.js";
import { softmax } from "./dynamics.js";
import { el, rule, scale, show, text } from "./plot.js";
import { state } from "./state.js";

const WORDS = ["6", "5", "4", "7", "five", "other"];
const REST = [0.5, 0.2, 0.12, 0.1, 0.08];

function draw(width) {
  const { p, w } = state,
    A = Number(state.a);
  if (!(p > 0 && p < 1)) throw new Error(`π = ${p}: a probability strictly between 0 and 1 is needed.`);
  if (!Number.isFinite(w)) throw new Error(`weight = ${w}: a finite number is needed.`);
  const before = [p, ...REST.map((x) => x * (1 - p))];
  const after = softmax(before.map((x, i) => Math.log(x) + A * w * ((i ? 0 : 1) - x))).p;
  const left = 78,
    bar = scale(0, 1, left, width - 84),
    row = 34;
  const bars = WORDS.map((word, i) => {
    const y = 34 + i * row;
    return (
      text(left - 12, y + 15, i ? word : `“${word}”`, { cls: i ? "name" : "name strong", anchor: "end" }) +
      el("rect", { class: "before", x: left, y, width: bar(before[i]) - left, height: 20, rx: 2 }) +
      el("rect", {
        class: i ? "after" : "after main",
        x: left,
        y: y + 4,
        width: bar(after[i]) - left,
        height: 12,
        rx: 2,
      }) +
      text(Math.max(bar(before[i]), bar(after[i])) + 8, y + 15, show(after[i]), { cls: "value" })
    );
  });
  const top = 34 + WORDS.length * row + 44;
  const gauge = scale(0.01, 3000, left, width - 84, { log: true });
  const value = [
    ["on ∇log π", w, "w"],
    ["on ∇π", w / p, "w/π"],
  ].map(([name, x, formula], i) => {
    const y = top + i * 42,
      at = gauge(Math.min(Math.max(x, 0.01), 3000));
    return (
      text(left - 12, y + 5, formula, { cls: "name strong", anchor: "end" }) +
      text(left, y - 10, `weight ${name}`, { cls: "note" }) +
      rule(left, y, gauge.to, y, "axis") +
      el("circle", { class: "mark", cx: at, cy: y, r: 7 }) +
      text(gauge.to + 12, y + 5, show(x), { cls: "value strong" })
    );
  });
  const ticks = gauge.ticks.map((t) => text(gauge(t), top + 68, show(t), { cls: "tick", anchor: "middle" }));
  return {
    height: top + 84,
    svg:
      text(left, 16, "2 + 3 =  … the policy says", { cls: "title" }) +
      bars.join("") +
      value.join("") +
      ticks.join(""),
    label:
      "Bars: a policy over six tokens before and after one update. Below, the weight on the log " +
      "probability and on the probability.",
    say:
      `One update moves “6” from ${show(p)} to ${show(after[0])}. The weight on ∇log π is ${show(w)}; ` +
      `the same update has ${show(w / p)} on ∇π.`,
  };
}

export const act1 = {
  uses: ["w", "p", "a"],
  build: () => ({ draw, controls: [choice("a"), slider("w"), slider("p")] }),
  predict: {
    question:
      "A method holds the weight on ∇log π at 0.8. The token falls to π = 0.01. What multiplies ∇π now?",
    options: ["0.008", "0.8", "80"],
    right: 2,
    answer:
      "∇log π = ∇π / π, so the weight on ∇π is 0.8 / 0.01 = 80. Drag π down: the upper mark stays, the " +
      "lower one runs away. They are one update.",
  },
};
