// A run as it grows: reward, entropy, what lies outside the trust region, and its tokens.
import { h } from "./controls.js";
import { RUN } from "./data.js";
import { mount } from "./figure.js";
import { open } from "./host.js";
import { axes, dot, el, labels, line, scale, show, text } from "./plot.js";
import { cloud, columns, layout, trust } from "./run.js";

const OUTSIDE = Object.keys(RUN.outside);

/** A frame over all steps of the run; `top` is the least that its height holds. */
function frame({ left, right, top, bottom }, values, title, least) {
  const room = right - 78,
    x = scale(0, Math.max(RUN.steps, 1), left, room),
    y = scale(0, Math.max(least, ...values), bottom, top);
  return { x, y, svg: axes(x, y, { xTitle: "step", yTitle: title }), room };
}

function curve(rows, name, place, title, least) {
  const values = rows.map((row) => row[name]),
    { x, y, svg } = frame(place, values, title, least);
  const points = rows.map((row) => (row[name] === null ? null : [x(row.step), y(row[name])])),
    last = points.findLast(Boolean);
  if (!last) return svg;
  const end = rows.findLast((row) => row[name] !== null)[name];
  return (
    svg +
    line(points, RUN.key) +
    dot(...last, RUN.key) +
    text(last[0] + 10, last[1] + 4, show(end), { cls: "strong" })
  );
}

/** The shares of the weight on ∇π outside, one on the other. */
function shares(rows, place) {
  const of = (row, region) => row[`w_prob/${region}`] ?? 0;
  const totals = rows.map((row) => OUTSIDE.reduce((sum, region) => sum + of(row, region), 0)),
    { x, y, svg, room } = frame(place, totals, "share of |A · weight on ∇π| outside the trust region", 0.02);
  const areas = [],
    names = [];
  let below = rows.map(() => 0);
  for (const region of OUTSIDE) {
    const above = rows.map((row, i) => below[i] + of(row, region));
    const edge = (sums) => rows.map((row, i) => `${x(row.step).toFixed(1)} ${y(sums[i]).toFixed(1)}`);
    areas.push(
      el("path", {
        d: `M${[...edge(above), ...edge(below).reverse()].join("L")}Z`,
        fill: `var(--${region})`,
      }),
    );
    names.push({ key: region, text: RUN.outside[region], y: y((above.at(-1) + below.at(-1)) / 2) });
    below = above;
  }
  return svg + areas.join("") + labels(names, Math.min(x(rows.at(-1).step), room), place.top, place.bottom);
}

function draw(width, rows, tokens) {
  const places = layout(width),
    height = places[3].bottom + 66;
  const label = "Reward, entropy, the share of weight outside the trust region, and the weights of tokens.";
  if (!rows.length) return { svg: text(52, 40, "Waiting for the first step …"), height: 80, label, say: "" };
  const found = tokens.ratio.length ? cloud(tokens, "ratio", "w_prob", places[3]) : null,
    last = rows.at(-1),
    outside = OUTSIDE.reduce((sum, region) => sum + (last[`w_prob/${region}`] ?? 0), 0);
  return {
    svg:
      curve(rows, "reward/mean", places[0], "training reward", 1) +
      curve(rows, "entropy", places[1], "entropy, nats a token", 0.1) +
      shares(rows, places[2]) +
      (found ? trust(found) + found.svg : ""),
    height,
    label,
    say:
      `Step ${last.step} of ${RUN.steps}: reward ${show(last["reward/mean"])}, entropy ${show(last.entropy)} nats; ` +
      `${(100 * outside).toFixed(1)} % of the weight on ∇π lies outside the trust region. ` +
      "Red: tokens of good answers; blue: of bad ones.",
  };
}

export function start(model, el) {
  const figure = h("figure", { "data-view": "live" }),
    close = open(model, el, [figure]);
  const live = {
    uses: [],
    build(redraw) {
      for (const name of ["rows", "tokens"]) model.on(`change:${name}`, redraw);
      return { controls: [], draw: (width) => draw(width, JSON.parse(model.get("rows")), columns(model)) };
    },
  };
  mount(live, figure);
  el.explorable = { rows: () => JSON.parse(model.get("rows")) }; // for the tests
  return close;
}
