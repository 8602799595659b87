// Act 4: bias against variance. The error of a batch of N is bias² + variance / N; the plateau is the bias.
import { slider } from "./controls.js";
import { METHODS } from "./data.js";
import { errors, family, moments, moved } from "./estimator.js";
import { axes, dot, el, labels, line, rule, scale, show, text } from "./plot.js";
import { DIALS, set, computed, state } from "./state.js";

const SAMPLES = Array.from({ length: 61 }, (_, i) => 10 ** (i / 12)),
  LOW = 1e-3,
  HIGH = 100;
const policies = family();

const axis = (width) => scale(1, 1e5, 48, width - 126, { log: true });

function study() {
  if (!(state.d > 0 && state.d <= 2))
    throw new Error(`distance = ${state.d}: a number of nats in (0, 2] is needed.`);
  const there = policies.map((one) => moved(one, state.d));
  return computed().map((method) => {
    const all = policies.map((one, i) => moments(method, one.z, there[i], one.A));
    return { method, all, curve: errors(all, SAMPLES) };
  });
}

function draw(width, found) {
  if (!(state.N >= 1 && state.N <= 1e5))
    throw new Error(`samples = ${state.N}: a number from 1 to 100000 is needed.`);
  const height = Math.min(460, 280 + width / 5),
    from = height - 56,
    x = axis(width);
  const y = scale(LOW, HIGH, from, 84, { log: true }),
    at = (e) => y(Math.min(Math.max(e, LOW), HIGH));
  const curves = found.map(({ method, curve }) =>
    line(
      curve.map((e, i) => (e > HIGH || e < LOW ? null : [x(SAMPLES[i]), at(e)])),
      method.key,
      { dash: METHODS[method.key].dash },
    ),
  );
  const strip = SAMPLES.slice(0, -1).map((n, i) => {
    const best = found.reduce((a, b) => (b.curve[i] < a.curve[i] ? b : a));
    const place = {
      x: x(n),
      y: 26,
      width: x(SAMPLES[i + 1]) - x(n),
      height: 8,
      "shape-rendering": "crispEdges",
    };
    return el("rect", { ...place, fill: `var(--${best.method.key})`, opacity: best.curve[i] > 1 ? 0.35 : 1 });
  });
  const here = x(state.N),
    now = found.map(({ method, all }) => ({ method, error: errors(all, [state.N])[0] }));
  const dots = now.map(({ method, error }) => dot(here, at(error), method.key));
  const best = now.reduce((a, b) => (b.error < a.error ? b : a));
  const ends = found.map(({ method, curve }) => ({
    key: method.key,
    text: method.label,
    y: at(curve.at(-1)),
  }));
  const silent = best.error > 1 ? " A gradient of zero would be closer still." : "";
  return {
    svg:
      text(48, 16, "who is closest (pale: silence is closer still)", { cls: "note" }) +
      strip.join("") +
      axes(x, y, { xTitle: "samples that share a state", yTitle: "error = bias² + variance / samples" }) +
      rule(x.from, y(1), x.to, y(1), "cursor") +
      text(x.to - 4, y(1) - 7, width > 500 ? "silence: a gradient of zero" : "silence", {
        cls: "note",
        anchor: "end",
      }) +
      curves.join("") +
      rule(here, 26, here, from, "cursor") +
      dots.join("") +
      labels(ends, width - 124, 88, from),
    height,
    label:
      "Error of each method’s gradient against the samples in the batch, both axes logarithmic; above, " +
      "which method is closest.",
    say:
      `At ${show(state.d)} nats with ${show(state.N)} samples ${best.method.label} is closest: its error is ` +
      `${show(best.error)} of the squared true gradient.${silent}`,
  };
}

export const act4 = {
  uses: [...DIALS, "d", "N"],
  build() {
    let found = null,
      made = "";
    const fresh = () => {
      const now = JSON.stringify([...DIALS, "d"].map((key) => String(state[key])));
      if (now !== made) [found, made] = [study(), now];
      return found;
    };
    const drag = (at, width) => {
      const n = axis(width).invert(at);
      set({ N: Math.round(+Math.min(Math.max(n, 1), 1e5).toPrecision(2)) });
    };
    return { drag, draw: (width) => draw(width, fresh()), controls: [slider("d"), slider("N")] };
  },
  predict: {
    question: "With many thousand samples a batch, which gradient is closest to the true one?",
    options: ["DGPO’s: the least bias of the clips", "GRPO’s: the least variance", "no clip at all"],
    right: 2,
    answer:
      "Variance averages out and bias never does, so in the end no clip wins. DGPO is the least biased of the " +
      "clips, and the closest in a band of batch sizes less than a decade wide. With few samples the hard clips " +
      "win, mostly by being silent.",
  },
};
