// The talk: each figure exists once, and moves to the slide that is shown, with the dials that the slide names.
import { act1 } from "./act1.js";
import { act2 } from "./act2.js";
import { act3 } from "./act3.js";
import { act4 } from "./act4.js";
import { act5 } from "./act5.js";
import { act6, outcome } from "./act6.js";
import { h } from "./controls.js";
import { BEST, STYLE } from "./data.js";
import { mount } from "./figure.js";
import { load, state } from "./state.js";

const part = (options) => ({ ...act2, build: (redraw) => act2.build(redraw, options) });
const FIGURES = {
  token: act1,
  weights: part({ push: false }),
  push: part({ charts: false }),
  race: act3,
  error: act4,
  learn: act5,
  collapses: act6,
  best: outcome(BEST),
};
const made = {};

/** A figure in a shadow tree: reveal.js has looks of its own for some of the names that figures use. */
function make(name, place) {
  const host = h("div", { class: "figure", "data-prevent-swipe": true }),
    root = host.attachShadow({ mode: "open" }),
    figure = h("figure");
  root.append(h("style", {}, STYLE), figure);
  place.append(host);
  const { stop } = mount(FIGURES[name], figure);
  root.addEventListener("keydown", (event) => {
    if (event.target.matches("input") || event.key === " ") event.stopPropagation(); // not reveal's
  });
  return { host, figure, stop };
}

/** Show the slide's figure, at its dials. Its `data-keep` names the dials that stand below. */
function enter(slide) {
  const place = slide.querySelector("figure[data-figure]");
  if (!place) return;
  const { figure: name, dials = "", keep = "" } = place.dataset;
  load(dials);
  made[name] ??= make(name, place);
  place.append(made[name].host);
  for (const control of made[name].figure.querySelectorAll(".controls > *")) {
    const input = control.querySelector("input"),
      key = input && (input.type === "radio" ? input.name : input.id.replace("range-", ""));
    control.hidden = Boolean(input) && !keep.split(" ").includes(key);
  }
}

Reveal.on("ready", ({ currentSlide }) => enter(currentSlide));
Reveal.on("slidechanged", ({ previousSlide, currentSlide }) => {
  made[previousSlide?.querySelector("figure[data-figure]")?.dataset.figure]?.stop?.();
  enter(currentSlide);
});
function theme() {
  const dark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = dark ? "light" : "dark";
}

Reveal.initialize({
  width: 1280,
  height: 720,
  margin: 0,
  center: false,
  display: "grid",
  controls: false,
  hash: true,
  slideNumber: "c/t",
  transition: "none",
  keyboard: { 84: theme }, // T
  plugins: [RevealNotes],
});

window.talk = { made, state }; // for the tests
