// The page: six acts with their predictions, and the address that holds the state.
import { act1 } from "./act1.js";
import { act2 } from "./act2.js";
import { act3 } from "./act3.js";
import { act4 } from "./act4.js";
import { act5 } from "./act5.js";
import { act6 } from "./act6.js";
import { learn } from "./bandit.js";
import { prediction, presets } from "./controls.js";
import { METHODS } from "./data.js";
import { ascent } from "./dynamics.js";
import { moments } from "./estimator.js";
import { mount } from "./figure.js";
import { FIELDS, PRESETS, load, onChange, reset, set, state, written } from "./state.js";
import { make, weigh } from "./weights.js";

const ACTS = [act1, act2, act3, act4, act5, act6];
let saving = 0;

ACTS.forEach((act, i) => {
  const figure = document.querySelector(`#act-${i + 1} figure`);
  mount(act, figure);
  document.querySelector(`#act-${i + 1} .ask`).append(prediction(i + 1, act.predict, figure));
});

onChange(() => {
  clearTimeout(saving);
  saving = setTimeout(link, 150); // browsers allow few changes of the address a second
});

/** The address that holds the state; the address bar shows it from now on. */
function link() {
  const text = written(),
    hash = text ? "#" + text : "#";
  if (hash !== (location.hash || "#")) history.replaceState(null, "", hash);
  return location.href;
}

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

document.querySelector("#presets").append(...presets());
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
