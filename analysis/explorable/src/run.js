// A run's own tokens, figure 4 of the paper: point at one and read its word, its context and its numbers.
import { h, spelled } from "./controls.js";
import { RUN } from "./data.js";
import { onMessage } from "./host.js";
import { axes, el, line, scale, show, text } from "./plot.js";
import { onChange, set, state } from "./state.js";
import { make, weigh } from "./weights.js";

const X = { ratio: "ratio r = π/π_old", prob: "probability π" };
const Y = { w_log: "weight on ∇log π", w_prob: "weight on ∇π" };
const NEAR = 16, // pixels
  CLOUD = 150; // points of one path: within a path they do not darken each other

/** The columns that Python sends, as one array each; `RUN.columns` names them. */
export function columns(model) {
  const { buffer, byteOffset, byteLength } = model.get("tokens");
  const all = new Float64Array(buffer.slice(byteOffset, byteOffset + byteLength)),
    count = all.length / RUN.columns.length;
  return Object.fromEntries(RUN.columns.map((name, i) => [name, all.subarray(i * count, (i + 1) * count)]));
}

/** A logarithmic scale over the sizes of `values`; those that are 0 have no place on it. */
function spanning(values, from, to) {
  let low = Infinity,
    high = 0;
  for (const value of values) {
    const size = Math.abs(value);
    if (size > 0) [low, high] = [Math.min(low, size), Math.max(high, size)];
  }
  return high
    ? scale(low / 1.3, high * 1.3, from, to, { log: true })
    : scale(0.1, 10, from, to, { log: true });
}

/** One panel of points: where each token lies, and its drawing. */
export function cloud(tokens, x, y, { left, right, top, bottom }) {
  const zero = bottom + 18,
    across = spanning(tokens[x], left, right),
    up = spanning(tokens[y], bottom, top);
  const at = (i) => [across(tokens[x][i]), tokens[y][i] === 0 ? zero : up(Math.abs(tokens[y][i]))];
  const paths = { good: [], bad: [] };
  for (let i = 0; i < tokens[x].length; i++) {
    const [px, py] = at(i);
    paths[tokens.advantage[i] > 0 ? "good" : "bad"].push(`M${px.toFixed(1)} ${py.toFixed(1)}h0`);
  }
  const points = Object.entries(paths).flatMap(([key, all]) =>
    Array.from({ length: Math.ceil(all.length / CLOUD) }, (_, i) =>
      el("path", {
        class: "cloud",
        d: all.slice(i * CLOUD, (i + 1) * CLOUD).join(""),
        stroke: `var(--${key})`,
      }),
    ),
  );
  const frame = { xTitle: X[x], yTitle: Y[y], left, right, bottom: zero };
  const nothing = text(left - 8, zero + 4, "0", { cls: "tick", anchor: "end" });
  return {
    svg: axes(across, up, frame) + nothing + points.join(""),
    at,
    across,
    up,
    left,
    right,
    top,
    bottom: zero,
  };
}

/** The trust region behind a panel of ratios. */
export function trust({ across, top, bottom }) {
  const [from, to] = [1 - RUN.low, 1 + RUN.high].map((r) =>
    Math.min(Math.max(across(r), across.from), across.to),
  );
  return el("rect", { class: "trust", x: from, width: to - from, y: top, height: bottom - top });
}

/** The method's own curve for either sign of A, where it depends on the ratio alone. */
function theory(method, { across, up, bottom }) {
  return [1, -1].map((A) => {
    const points = Array.from({ length: 201 }, (_, i) => {
      const r = across.low * (across.high / across.low) ** (i / 200),
        [w, other] = [0.0067, 0.00012].map((old) => weigh(method, Math.log(r), A, old));
      if (Math.abs(w - other) > 1e-9 * Math.abs(w)) return null;
      return w > 0 && (w < up.low || w > up.high) ? null : [across(r), w > 0 ? up(w) : bottom];
    });
    return line(points, A > 0 ? "good" : "bad", { width: 1.5 });
  });
}

export function layout(width) {
  const two = width > 620,
    each = (two ? width / 2 : width) - 78,
    high = two ? 190 : 170;
  return [0, 1, 2, 3].map((i) => {
    const [row, column] = two ? [i >> 1, i % 2] : [i, 0];
    const left = 52 + column * (each + 78),
      top = 44 + row * (high + 96);
    return { left, right: left + each, top, bottom: top + high };
  });
}

/** The figure of a run, or what is wrong with it. */
export function yourRun(model) {
  const tokens = RUN.problem ? null : columns(model),
    method = RUN.problem ? null : make(RUN.key, RUN.params);
  let panels = [];

  function draw(width) {
    if (RUN.problem) throw new Error(RUN.problem);
    const pairs = Object.keys(Y).flatMap((y) => Object.keys(X).map((x) => [x, y])),
      places = layout(width);
    panels = pairs.map(([x, y], i) => cloud(tokens, x, y, places[i]));
    const curve = method.sequence ? "" : theory(method, panels[0]).join(""),
      height = places[3].bottom + 66;
    const names =
      text(places[0].left, 12, "● good tokens, A > 0", { cls: "label good" }) +
      text(places[0].left + 190, 12, "● bad tokens, A < 0", { cls: "label bad" });
    const rings = panels.map(() => el("circle", { class: "ring", r: 7, cx: -99, cy: -99 }));
    const shades = trust(panels[0]) + trust(panels[2]);
    return {
      svg: shades + names + panels.map(({ svg }) => svg).join("") + curve + rings.join(""),
      height,
      label: "The weight of each recorded token against its ratio and its probability, in four panels.",
      say:
        `${RUN.label}: ${tokens.ratio.length} of ${RUN.total} recorded tokens, those outside the trust region first. ` +
        "Point at one; click to hold it; ← and → read on.",
    };
  }

  return {
    uses: [],
    build() {
      const card = h("div", { class: "card", hidden: true, role: "status" });
      let held = state.tok >= 0,
        asking = 0,
        picture = null;

      function ring() {
        const i = state.tok;
        picture?.querySelectorAll(".ring").forEach((circle, panel) => {
          const [x, y] = i >= 0 && i < tokens.ratio.length ? panels[panel].at(i) : [-99, -99];
          circle.setAttribute("cx", x);
          circle.setAttribute("cy", y);
        });
      }

      function choose(i) {
        set({ tok: i });
      }

      function tell() {
        const i = state.tok;
        card.hidden = !(tokens && i >= 0 && i < tokens.ratio.length);
        if (card.hidden) return;
        card.replaceChildren(...described(tokens, i));
        clearTimeout(asking);
        asking = setTimeout(() => model.send({ kind: "context", token: i }), 60);
      }

      onMessage("context", ({ token, before, after }) => {
        if (token !== state.tok || card.hidden) return;
        card.querySelector(".before").textContent = before;
        card.querySelector(".after").textContent = after;
      });
      onChange((changed) => {
        if (!changed.has("tok")) return;
        tell();
        ring();
      });

      return {
        draw,
        controls: [card],
        drawn(element) {
          picture = element;
          element.tabIndex = 0;
          element.onkeydown = ({ key }) => {
            const by = { ArrowLeft: -1, ArrowRight: 1 }[key];
            if (by) choose(Math.min(Math.max(state.tok + by, 0), tokens.ratio.length - 1));
            if (key === "Escape") choose(-1);
            held = state.tok >= 0;
          };
          tell();
          ring();
        },
        point(x, y, element, kind) {
          if (held && kind !== "pointerdown") return;
          const found = nearest(x, y);
          if (kind === "pointerdown") held = found >= 0;
          if (found >= 0 || kind === "pointerdown") choose(found);
        },
      };

      function nearest(x, y) {
        const panel = panels.find(
          (p) => x > p.left - NEAR && x < p.right + NEAR && y > p.top - NEAR && y < p.bottom + NEAR,
        );
        let best = NEAR,
          found = -1;
        for (let i = 0; panel && i < tokens.ratio.length; i++) {
          const [px, py] = panel.at(i),
            far = Math.hypot(px - x, py - y);
          if (far < best) [best, found] = [far, i];
        }
        return found;
      }
    },
  };
}

/** A token in words and numbers. */
function described(tokens, i) {
  const of = (name) => tokens[name][i],
    good = of("advantage") > 0;
  const rows = {
    when: `step ${of("step")}, update ${of("update") + 1}, token ${of("position") + 1} of its answer`,
    "advantage A": `${show(of("advantage"))}, ${good ? "a good answer" : "a bad answer"}`,
    "ratio r = π/π_old": `${show(of("ratio"))} = ${show(of("prob"))} / ${show(of("old_prob"))}`,
    region: RUN.regions[of("region")],
    "weight on ∇log π": show(of("w_log")),
    "weight on ∇π": show(of("w_prob")),
  };
  const passage = h(
    "p",
    { class: "passage" },
    h("span", { class: "before" }),
    h("mark", { class: good ? "good" : "bad" }, RUN.words[of("word")]),
    h("span", { class: "after" }),
  );
  const table = h(
    "dl",
    {},
    ...Object.entries(rows).flatMap(([k, v]) => [h("dt", {}, ...spelled(k)), h("dd", {}, v)]),
  );
  return [passage, table];
}
