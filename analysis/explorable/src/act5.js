// Act 5: a policy learns. All methods see the same problem and the same random numbers, those of
// analysis/bandit.py.
import { learn } from "./bandit.js";
import { button, choice, h, slider } from "./controls.js";
import { METHODS } from "./data.js";
import { softmax } from "./dynamics.js";
import { axes, el, labels, line, named, scale, show, text } from "./plot.js";
import { DIALS, FIELDS, set, computed, state } from "./state.js";

const SEEDS = 4,
  STEPS = 150;
const WORLDS = {
  plain: {},
  noisy: { flip: 0.25 },
  rare: { pBest: 0.2 / 32 },
  answer: { length: 4, arms: 8, pBest: 0.5, flip: 0.1 },
};

const mean = (rows, key) => rows.reduce((a, row) => a + row[key], 0) / rows.length;

function draw(width, { methods, learner }) {
  const key = state.y,
    steps = learner.history[0].length - 1,
    height = Math.min(400, 250 + width / 6);
  const top = key === "right" ? 1 : key === "regret" ? 0.9 : Math.log(learner.setting.arms),
    from = height - 56;
  const x = scale(0, STEPS, 48, width - 126),
    y = scale(0, top, from, 40),
    ends = [],
    curves = [];
  methods.forEach((method, m) => {
    const rows = learner.history[m];
    const path = (of) => rows.map((row, i) => [x(i), y(Math.max(0, of(row)))]);
    const seeds = Array.from({ length: SEEDS }, (_, b) => [...path((row) => row[b][key]), null]).flat();
    const average = path((row) => mean(row, key));
    curves.push(line(seeds, method.key, { width: 1, opacity: 0.25 }));
    curves.push(line(average, method.key, { dash: METHODS[method.key].dash }));
    ends.push({ key: method.key, text: method.label, y: y(Math.max(0, mean(rows.at(-1), key))) });
  });
  const strips = policies(methods, learner, height + 34, width);
  const now = methods.map((method, m) => `${method.label} ${show(mean(learner.history[m].at(-1), key))}`);
  return {
    svg:
      axes(x, y, { xTitle: "batches", yTitle: `${FIELDS.y.options[key]}, mean of ${SEEDS} seeds` }) +
      curves.join("") +
      labels(ends, width - 124, 44, from) +
      strips.svg,
    height: strips.height,
    label:
      "Learning curves, a line a method and faint ones a seed; below, each method’s policy as a strip of cells.",
    say: `After ${steps} ${steps === 1 ? "batch" : "batches"} the ${FIELDS.y.options[key]} is: ${now.join(", ")}.`,
  };
}

/** Each method's policy of the first seed: a cell an arm, the darker the likelier; the good arms have a notch. */
function policies(methods, { policies: all, problems, setting, cells }, top, width) {
  const x = scale(0, cells, 48, width - 126),
    wide = x(1) - x(0);
  const rows = methods.map((method, m) => {
    const y = top + 22 + m * 22,
      z = all[m][0];
    const squares = {}, // by opacity: one path for all that share it is drawn faster than a rectangle each
      fill = `var(--${method.key})`;
    for (let t = 0; t < setting.length; t++) {
      const { p } = softmax([...z.subarray(t * setting.arms, (t + 1) * setting.arms)]);
      p.forEach((v, k) => {
        const width = Math.max(1, wide - (k === setting.arms - 1 ? 4 : 1)).toFixed(1),
          opacity = (0.06 + 0.94 * Math.sqrt(v)).toFixed(2);
        const square = `M${(x(t * setting.arms + k) + 0.5).toFixed(1)} ${y}h${width}v15h-${width}z`;
        squares[opacity] = (squares[opacity] ?? "") + square;
      });
    }
    const paths = Object.entries(squares).map(([opacity, d]) => el("path", { d, fill, opacity }));
    return paths.join("") + named(width - 109, y + 8, method.key, method.label);
  });
  const notches = problems[0].good.map((good, k) =>
    good ? el("path", { class: "notch", d: `M${x(k) + wide / 2 - 5} ${top + 11}h10l-5 7z` }) : "",
  );
  const title =
    setting.length > 1 ? "the policies, token by token; ▾ the right ones" : "the policies; ▾ the good arm";
  return {
    svg: text(48, top, title, { cls: "title" }) + notches.join("") + rows.join(""),
    height: top + 26 + methods.length * 22,
  };
}

export const act5 = {
  uses: [...DIALS, "world", "u", "lr5", "seed", "y"],
  build(redraw) {
    let run = null,
      made = "",
      problem = null,
      timer = 0,
      slow = false;
    const ended = () => !run || problem || run.learner.history[0].length > STEPS;

    /** The learners at these dials, from the start again where a dial has moved. */
    function current() {
      const now = JSON.stringify([...DIALS, "world", "u", "lr5", "seed"].map((key) => String(state[key])));
      if (now !== made) start(now);
      if (problem) throw problem;
      return run;
    }

    function start(now) {
      [made, problem, run] = [now, null, null];
      try {
        const methods = computed(),
          setting = { ...WORLDS[state.world], minibatches: Number(state.u), lr: state.lr5 };
        run = { methods, learner: learn(methods, setting, SEEDS, state.seed) };
        go();
      } catch (error) {
        problem = error;
      }
    }

    /** One batch a frame, or as many as 8 ms allow, so that a dial that moves keeps moving. */
    function frame() {
      const until = performance.now() + 8;
      do {
        advance();
      } while (!slow && !ended() && performance.now() < until);
      redraw();
      if (ended()) return stop();
      timer = requestAnimationFrame(frame);
    }

    function advance() {
      try {
        if (!ended()) run.learner.step();
      } catch (error) {
        problem = error;
      }
    }

    function go() {
      cancelAnimationFrame(timer);
      timer = requestAnimationFrame(frame);
    }

    function stop() {
      cancelAnimationFrame(timer);
      [timer, slow] = [0, false];
      play.textContent = "▶ Learn";
    }

    const play = button(
      "▶ Learn",
      () => {
        if (slow) return stop();
        if (ended()) start(made);
        slow = true;
        play.textContent = "❚❚ Pause";
        go();
      },
      { class: "play" },
    );
    const step = button("One batch", () => {
      if (ended()) start(made);
      stop();
      advance();
      redraw();
    });
    const again = button("New seed", () => set({ seed: (state.seed + 1) % 1000 }));
    return {
      draw: (width) => draw(width, current()),
      controls: [
        choice("world"),
        choice("u"),
        choice("y"),
        h("div", { class: "row" }, play, step, again),
        slider("lr5"),
        slider("seed"),
      ],
    };
  },
  predict: {
    question:
      "A quarter of all rewards is flipped, and each batch is used for 16 updates. Who finds the good " +
      "arm most often?",
    options: ["DGPO", "GRPO, the hard clip", "CISPO, a soft clip", "no clip at all"],
    right: 1,
    answer:
      "Over 200 seeds of this world the hard clip finds it most often, no clip least, and DGPO lies " +
      "with the soft clips. The four seeds drawn here cannot show that: press New seed and see how much" +
      " they differ. Notebook 3 compares with intervals.",
  },
};
