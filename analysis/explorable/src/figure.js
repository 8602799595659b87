// Puts a figure into its place and draws it when its numbers change, at most once a frame.
import { button, h } from "./controls.js";
import { el, esc } from "./plot.js";
import { asked, onAnswer } from "./remote.js";
import { onChange, reset } from "./state.js";

const stale = new Set();
const drawings = [];
let frame = 0;

/**
 * What an act is: {uses, build(redraw) → {above, controls, draw(width) → {svg, height, label, say},
 * drag(x, width), point(x, y, picture, event), drawn(picture)}, predict}.
 */
export function mount({ uses, build }, figure) {
  const redraw = () => invalidate(drawing);
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
  figure.append(body);

  function draw() {
    // The figure's type grows with the page's.
    const unit = parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
    width = Math.round(Math.max(280, Math.min((picture.clientWidth || 600) / unit, 1100)));
    try {
      const { svg, height, label, say } = made.draw(width);
      if (asked()) return; // the answer draws it anew; until then it stays as it is
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
      if (figure.contains(figure.getRootNode().activeElement))
        quiet = setTimeout(() => (spoken.textContent = say), 700);
      problem.hidden = true;
      picture.hidden = says.hidden = false;
      made.drawn?.(picture);
    } catch (error) {
      made.stop?.();
      problem.replaceChildren(error.message + " ", button("Reset", reset));
      problem.hidden = false;
      picture.hidden = says.hidden = true;
    }
  }
  const at = ({ clientX, clientY }) => {
    const box = picture.firstChild.getBoundingClientRect();
    return [clientX - box.left, clientY - box.top].map((x) => (x / box.width) * width);
  };
  if (made.drag) {
    picture.addEventListener("pointerdown", (event) => {
      picture.setPointerCapture(event.pointerId);
      made.drag(at(event)[0], width);
    });
    picture.addEventListener("pointermove", (event) => event.buttons && made.drag(at(event)[0], width));
  }
  if (made.point) {
    for (const kind of ["pointermove", "pointerdown"])
      picture.addEventListener(kind, (event) => made.point(...at(event), picture, kind));
  }
  new ResizeObserver(redraw).observe(figure);
  new IntersectionObserver(
    ([entry]) => {
      drawing.seen = entry.isIntersecting;
      if (stale.has(drawing)) redraw();
    },
    { rootMargin: "300px" },
  ).observe(figure);
  drawings.push(drawing);
  redraw();
  return made;
}

/** Draw it in the next frame, or once it is near the screen. */
function invalidate(drawing) {
  stale.add(drawing);
  frame ||= requestAnimationFrame(drawStale);
}

function drawStale() {
  frame = 0;
  for (const one of [...stale].filter((each) => each.seen)) {
    stale.delete(one);
    one.draw();
  }
}

onAnswer(() => {
  // Python took long enough: do not wait for a frame as well
  cancelAnimationFrame(frame);
  drawings.forEach((one) => stale.add(one));
  drawStale();
});
onChange((changed) =>
  drawings.forEach((one) => {
    if (one.uses.some((key) => changed.has(key))) invalidate(one);
  }),
);
