// Puts the six figures on the page and draws those whose numbers changed, once a frame.
import { act1 } from "./act1.js";
import { act2 } from "./act2.js";
import { act3 } from "./act3.js";
import { act4 } from "./act4.js";
import { act5 } from "./act5.js";
import { act6 } from "./act6.js";
import { learn } from "./bandit.js";
import { button, h, prediction } from "./controls.js";
import { METHODS } from "./data.js";
import { ascent } from "./dynamics.js";
import { moments } from "./estimator.js";
import { el, esc } from "./plot.js";
import { FIELDS, PRESETS, apply, link, load, onChange, reset, set, state } from "./state.js";
import { make, weigh } from "./weights.js";

const ACTS = [act1, act2, act3, act4, act5, act6];
const stale = new Set();
let frame = 0;
const drawings = ACTS.map(mount);

/** An act is {uses, build(redraw) → {controls, draw(width) → {svg, height, label, say}, drag(x, width)}, predict}. */
function mount({ uses, build, predict }, i) {
  const figure = document.querySelector(`#act-${i + 1} figure`),
    redraw = () => invalidate(drawing);
  const picture = h("div", { class: "picture" }),
    says = h("figcaption"),
    spoken = h("p", { class: "spoken", role: "status" });
  const problem = h("p", { class: "problem", role: "alert", hidden: true });
  const made = build(redraw),
    drawing = { uses, draw, seen: true }; // the first time all are drawn, so that nothing shifts later
  let width = 600;
  let quiet = 0; // a screen reader hears the numbers once they rest
  const body = h(
    "div",
    { class: "body" },
    ...(made.above || []),
    problem,
    picture,
    says,
    spoken,
    h("div", { class: "controls" }, ...made.controls),
  );
  figure.append(body, h("p", { class: "veil", "aria-hidden": true }, "Predict first"));
  document.querySelector(`#act-${i + 1} .ask`).append(prediction(i + 1, predict, figure));

  function draw() {
    // The figure's type grows with the page's.
    const unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
    width = Math.round(Math.max(280, Math.min((picture.clientWidth || 600) / unit, 1100)));
    try {
      const { svg, height, label, say } = made.draw(width);
      const attributes = {
        viewBox: `0 0 ${width} ${height}`,
        width,
        height,
        role: "img",
        "aria-label": esc(label),
      };
      picture.innerHTML = el("svg", attributes, svg);
      says.textContent = say;
      // On a phone the figure is pinned: its lower part stays in view over the dials.
      picture.style.top = `${Math.min(0, innerHeight * 0.55 - picture.offsetHeight)}px`;
      clearTimeout(quiet);
      if (figure.contains(document.activeElement)) quiet = setTimeout(() => (spoken.textContent = say), 700);
      problem.hidden = true;
      picture.hidden = says.hidden = false;
    } catch (error) {
      made.stop?.();
      problem.replaceChildren(error.message + " ", button("Reset", reset));
      problem.hidden = false;
      picture.hidden = says.hidden = true;
    }
  }
  const drag = ({ clientX }) => {
    const box = picture.firstChild.getBoundingClientRect();
    made.drag(((clientX - box.left) / box.width) * width, width);
  };
  if (made.drag) {
    picture.addEventListener("pointerdown", (event) => {
      picture.setPointerCapture(event.pointerId);
      drag(event);
    });
    picture.addEventListener("pointermove", (event) => event.buttons && drag(event));
  }
  new ResizeObserver(redraw).observe(figure);
  new IntersectionObserver(
    ([entry]) => {
      drawing.seen = entry.isIntersecting;
      if (stale.has(drawing)) redraw();
    },
    { rootMargin: "300px" },
  ).observe(figure);
  return drawing;
}

/** Draw it in the next frame, or once it is near the screen. */
function invalidate(drawing) {
  stale.add(drawing);
  frame ||= requestAnimationFrame(() => {
    frame = 0;
    for (const one of [...stale].filter((each) => each.seen)) {
      stale.delete(one);
      one.draw();
    }
  });
}

onChange((changed) =>
  drawings.forEach((one) => {
    if (one.uses.some((key) => changed.has(key))) invalidate(one);
  }),
);
addEventListener("hashchange", () => load(location.hash));
for (const anchor of document.querySelectorAll('a[href^="#act-"]')) {
  anchor.addEventListener("click", (event) => {
    // the address holds the dials: go there without it
    event.preventDefault();
    const heading = document.querySelector(`${anchor.hash} h2`);
    heading.tabIndex = -1;
    heading.focus({ preventScroll: true });
    document.querySelector(anchor.hash).scrollIntoView();
  });
}

const presets = Object.keys(PRESETS).map((name) => button(name, () => apply(name), { class: "preset" }));
document.querySelector("#presets").append(...presets, button("Reset", reset, { id: "reset" }));
document.querySelector("#theme").addEventListener("click", () => {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
});
document
  .querySelector("#everything")
  .addEventListener("click", () => set({ guess: state.guess.replaceAll("-", "9") }));
document.querySelector("#link").addEventListener("click", async ({ target }) => {
  const before = target.textContent;
  const copied = await navigator.clipboard?.writeText(link()).then(
    () => true,
    () => false,
  );
  target.textContent = copied ? "Copied" : "It is in the address bar";
  setTimeout(() => (target.textContent = before), 2000);
});

load(location.hash);
drawings.forEach(invalidate);

// For the tests, and for whoever looks into the console.
window.explorable = {
  METHODS,
  FIELDS,
  PRESETS,
  state,
  set,
  reset,
  link,
  make,
  weigh,
  learn,
  ascent,
  moments,
};
