// Small SVG figures: scales, axes, lines and labels beside the lines. Everything returns SVG text.

const CODES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const SUBSCRIPT = 'π<tspan class="sub" dy=".25em">old</tspan><tspan dy="-.25em">\u200b</tspan>';

export const esc = (content) => String(content).replace(/[&<>"]/g, (c) => CODES[c]);

/** Safe SVG text, with the index of π_old set as one. */
export const words = (content) => esc(content).replace(/π_old/g, SUBSCRIPT);

/** An element as text: el("rect", {x: 1}). */
export function el(tag, attributes, content = "") {
  const given = Object.entries(attributes).map(([name, value]) => ` ${name}="${value}"`);
  return `<${tag}${given.join("")}>${content}</${tag}>`;
}

export const rule = (x1, y1, x2, y2, cls) => el("line", { class: cls, x1, y1, x2, y2 });
export const dot = (cx, cy, key, r = 5) => el("circle", { class: "dot", cx, cy, r, fill: `var(--${key})` });

/** Words at a place; anchor "start", "middle" or "end". */
export const text = (x, y, content, { cls = "note", anchor = "start" } = {}) =>
  el("text", { class: cls, x, y, "text-anchor": anchor }, words(content));

/** A method's name in its colour. */
export const named = (x, y, key, content, anchor = "start") =>
  el(
    "text",
    { class: "label", x, y, dy: ".32em", "text-anchor": anchor, fill: `var(--${key}-text)` },
    esc(content),
  );

/** A number as a reader wants it: three digits, powers of ten where it is far from 1. */
export function show(x) {
  if (x === 0 || !Number.isFinite(x)) return x === Infinity ? "∞" : String(x);
  const size = Math.abs(x);
  if (size >= 1e5 || size < 1e-3) {
    const power = Math.floor(Math.log10(size)),
      lead = +(x / 10 ** power).toPrecision(2);
    return (lead === 1 ? "" : lead + "·") + "10" + superscript(power);
  }
  return size >= 1000 ? String(Math.round(x)) : String(+x.toPrecision(3));
}

const superscript = (n) => String(n).replace(/./g, (c) => "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"["-0123456789".indexOf(c)]);

/** Maps [low, high] to [from, to]; `log` by logarithm. `.invert` goes back, `.ticks` lie on round numbers. */
export function scale(low, high, from, to, { log = false, ticks } = {}) {
  const f = log ? Math.log10 : (x) => x,
    g = log ? (x) => 10 ** x : (x) => x,
    a = f(low),
    b = f(high);
  const map = (x) => from + ((f(x) - a) / (b - a)) * (to - from);
  map.invert = (y) => g(a + ((y - from) / (to - from)) * (b - a));
  map.ticks = ticks ?? (log ? powers(a, b, Math.abs(to - from) / 44) : round(low, high));
  return Object.assign(map, { low, high, from, to });
}

function powers(a, b, most) {
  const first = Math.ceil(a - 1e-9),
    last = Math.floor(b + 1e-9),
    every = Math.max(1, Math.ceil((last - first) / Math.min(most, 6)));
  return Array.from({ length: Math.floor((last - first) / every) + 1 }, (_, i) => 10 ** (first + i * every));
}

function round(low, high) {
  const raw = (high - low) / 5,
    unit = 10 ** Math.floor(Math.log10(raw)),
    step = unit * [1, 2, 5, 10].find((k) => k * unit >= raw);
  const first = Math.ceil(low / step - 1e-9);
  return Array.from(
    { length: Math.floor(high / step + 1e-9) - first + 1 },
    (_, i) => +((first + i) * step).toPrecision(12),
  );
}

/** Ticks, grid and titles; the y title stands above the axis, where it reads without turning the head. */
export function axes(x, y, { xTitle = "", yTitle = "", left = x.from, right = x.to, bottom = y.from } = {}) {
  const rows = y.ticks.map(
    (t) =>
      rule(left, y(t), right, y(t), "grid") +
      text(left - 8, y(t) + 4, show(t), { cls: "tick", anchor: "end" }),
  );
  const columns = x.ticks.map((t) => text(x(t), bottom + 20, show(t), { cls: "tick", anchor: "middle" }));
  return (
    rows.join("") +
    columns.join("") +
    rule(left, bottom, right, bottom, "axis") +
    text(right, bottom + 40, xTitle, { cls: "title", anchor: "end" }) +
    text(left - 30, y.to - 16, yTitle, { cls: "title" })
  );
}

/** A line through points [[x, y], …] in pixels; null breaks it. */
export function line(points, key, { dash = "", width = key === "dgpo" ? 3 : 2, opacity = 1 } = {}) {
  let d = "",
    pen = "M";
  for (const point of points) {
    if (!point) {
      pen = "M";
      continue;
    }
    d += `${pen}${point[0].toFixed(1)} ${point[1].toFixed(1)}`;
    pen = "L";
  }
  const look = { "stroke-width": width, "stroke-dasharray": dash, opacity };
  return el("path", { class: "line", d, stroke: `var(--${key})`, ...look });
}

/**
 * Labels at the ends of lines, moved apart so that none covers another; a thin leader shows whose it is.
 * side −1: left.
 */
export function labels(items, x, top, bottom, side = 1, gap = 17) {
  const placed = items.map((item) => ({ ...item, at: item.y })).sort((a, b) => a.y - b.y);
  for (let i = 0; i < placed.length; i++)
    placed[i].at = Math.max(placed[i].at, i ? placed[i - 1].at + gap : top);
  let limit = bottom;
  for (let i = placed.length - 1; i >= 0; i--) {
    placed[i].at = Math.min(placed[i].at, limit);
    limit = placed[i].at - gap;
  }
  return placed
    .map(({ key, text: name, y, at }) => {
      const d = `M${x + 2 * side} ${y.toFixed(1)}L${x + 12 * side} ${at.toFixed(1)}`;
      const leader = el("path", { class: "leader", d, stroke: `var(--${key})` });
      return leader + named(x + 15 * side, at.toFixed(1), key, name, side > 0 ? "start" : "end");
    })
    .join("");
}
