// Act 3: what vanishes and what does not. The same update again and again, from one batch or from fresh ones.
import { choice, player, slider } from "./controls.js";
import { METHODS } from "./data.js";
import { ascent } from "./dynamics.js";
import { axes, dot, labels, line, scale, show } from "./plot.js";
import { DIALS, computed, state } from "./state.js";

const STEPS = 200,
  FLOOR = 1e-10;

function race() {
  const { lr, p3: piOld } = state;
  const setting = {
    steps: STEPS,
    lr,
    piOld,
    A: Number(state.s3),
    tokens: Number(state.k),
    refresh: Number(state.fresh),
  };
  if (!(lr > 0 && lr < Infinity)) throw new Error(`learning rate = ${lr}: a positive number is needed.`);
  return computed().map((method) => ({ method, paths: ascent(method, setting) }));
}

function draw(width, runs, share) {
  const falling = state.s3 === "-1",
    until = Math.max(1, Math.round(share * STEPS)),
    height = Math.min(430, 260 + width / 5);
  const x = scale(0, STEPS, 48, width - 126),
    from = height - 56;
  const y = falling ? scale(FLOOR, 1, from, 40, { log: true }) : scale(0, 1, from, 40);
  const at = (logPi) => y(Math.min(Math.max(Math.exp(logPi), falling ? FLOOR : 0), 1));
  const ends = [],
    curves = [];
  for (const { method, paths } of runs) {
    paths.forEach((path, i) => {
      const points = path.slice(0, until + 1).map((value, step) => [x(step), at(value)]);
      const low = path.findIndex((value) => falling && value < Math.log(FLOOR)),
        cut = low > 0 ? points.slice(0, low + 1) : points;
      curves.push(line(cut, method.key, { dash: METHODS[method.key].dash, opacity: 1 - 0.2 * i }));
      curves.push(dot(...cut.at(-1), method.key));
    });
    const gone = falling && paths[0][until] < Math.log(FLOOR);
    ends.push({ key: method.key, text: method.label + (gone ? " ↓" : ""), y: at(paths[0][until]) });
  }
  const last = runs.map(({ method, paths }) => `${method.label} ${show(Math.exp(paths[0][until]))}`);
  return {
    svg:
      axes(x, y, { xTitle: "updates", yTitle: "π of the token" }) +
      curves.join("") +
      labels(ends, width - 124, 44, from),
    height,
    label: "Probability of a pushed token against the number of updates, a line a method.",
    say: `After ${until} updates π is: ${last.join(", ")}.`,
  };
}

export const act3 = {
  uses: [...DIALS, "s3", "k", "fresh", "lr", "p3"],
  build(redraw) {
    let share = 1,
      runs = null,
      made = "";
    const run = player("Race", 5, (value) => {
      share = value;
      redraw();
    });
    const fresh = () => {
      const now = JSON.stringify(act3.uses.map((key) => String(state[key])));
      if (now !== made) [runs, made] = [race(), now];
      return runs;
    };
    return {
      stop: run.stop,
      draw: (width) => draw(width, fresh(), share),
      controls: [choice("s3"), choice("fresh"), choice("k"), run.it, slider("lr"), slider("p3")],
    };
  },
  predict: {
    question: "CISPO’s weight on ∇π goes to infinity as a bad token vanishes. What does its logit do?",
    options: ["It explodes too", "It falls at constant speed, for ever", "It slows down and stops"],
    right: 1,
    answer:
      "The gradient on the logits is w · (e − π), never longer than √2 · w. So nothing explodes, but " +
      "nothing fades either: log π falls along a straight line. DGPO’s fall is a power of time, t to " +
      "the −1/(n+1).",
  },
};
