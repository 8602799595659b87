// Act 6: what we measured. Every run of the fresh seeds, from docs/results/fresh/runs.csv.
import { RESULTS } from "./data.js";
import { axes, el, named, rule, scale, text } from "./plot.js";

const lost = (runs) => runs.filter((run) => run[2]).length;
const of = (label) => RESULTS.lines.find((line) => line.label === label).runs;

function draw(width, { lines, start }) {
  const row = lines.length > 8 ? 30 : 46,
    left = 92,
    top = 30,
    from = top + lines.length * row;
  const x = scale(0, 1, left, width - 96),
    y = Object.assign(() => 0, { ticks: [], from, to: top });
  const rows = lines.map(({ key, label, runs }, i) => {
    const at = top + i * row + row / 2,
      fell = lost(runs);
    const dots = runs.map(([seed, avg, collapsed], j) => {
      const cx = x(avg),
        cy = at + (((j * 7) % 10) - 4.5) * 2.2;
      const shape = collapsed
        ? el("path", { d: `M${cx - 4} ${cy - 4}l8 8m0 -8l-8 8`, stroke: `var(--${key})`, "stroke-width": 2 })
        : el("circle", { cx, cy, r: 4.5, fill: `var(--${key})`, "fill-opacity": 0.75 });
      return el("g", {}, el("title", {}, `seed ${seed}: ${avg}${collapsed ? ", collapsed" : ""}`) + shape);
    });
    return (
      rule(left, at, x.to, at, "grid") +
      named(left - 12, at, key, label, "end") +
      dots.join("") +
      text(x.to + 14, at + 5, `${fell} of ${runs.length}`, { cls: fell ? "value strong" : "value" })
    );
  });
  const mark = x(start);
  return {
    svg:
      text(x.to + 14, 16, "collapsed") +
      axes(x, y, { xTitle: "held-out avg@16 after 24 steps" }) +
      rows.join("") +
      rule(mark, top - 4, mark, from, "cursor") +
      text(mark + 6, top - 8, "before training"),
    height: from + 52,
    label: "Each run of each method by its held-out score; crosses are runs that collapsed.",
    say:
      lines.map(({ label, runs }) => `${label}: ${lost(runs)} of ${runs.length} collapsed`).join("; ") + ".",
  };
}

/** A figure of the runs of a sweep. */
export const outcome = (results) => ({
  uses: [],
  build: () => ({ draw: (width) => draw(width, results), controls: [] }),
});

export const act6 = {
  ...outcome(RESULTS),
  predict: {
    question:
      "Six methods, ten fresh seeds, a hard learning rate, nothing tuned on these seeds. Which " +
      "collapses least often?",
    options: ["DGPO (n 2)", "GRPO, the hard clip", "CISPO"],
    right: 1,
    answer:
      `GRPO in ${lost(of("GRPO"))} of 10, DGPO in ${lost(of("DGPO, n 2"))} (n 2) and ` +
      `${lost(of("DGPO, n 1"))} (n 1), CISPO in ${lost(of("CISPO"))}. No difference between GRPO and ` +
      `DGPO is shown, in collapses or in scores.`,
  },
};
