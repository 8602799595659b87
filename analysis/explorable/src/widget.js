// The explorer in a notebook: the page's figures as views with the dials beside them, and the reader's own run.
import { act2 } from "./act2.js";
import { act3 } from "./act3.js";
import { act4 } from "./act4.js";
import { act5 } from "./act5.js";
import { button, chips, choice, dials, h, presets } from "./controls.js";
import { METHODS, RUN } from "./data.js";
import { mount } from "./figure.js";
import { open } from "./host.js";
import { waiting } from "./remote.js";
import { columns, yourRun } from "./run.js";
import { FIELDS, PRESETS, load, method, onChange, reset, set, state, written } from "./state.js";
import { make, weigh } from "./weights.js";

const weight = { ...act2, build: (redraw) => act2.build(redraw, { settings: false }) };
const VIEWS = { weight, race: act3, error: act4, learn: act5 };

/** Fill `el`; the state is kept in the model, so that Python has it too. */
export function start(model, el) {
  const views = { ...VIEWS, ...(RUN ? { run: yourRun(model) } : {}) };
  if (!RUN) delete FIELDS.view.options.run;
  const figures = Object.fromEntries(
    Object.keys(views).map((key) => [key, h("figure", { "data-view": key })]),
  );
  const side = h("div", { class: "side controls" }, ...dials());
  const above = [
    chips("Methods"),
    h("div", { class: "presets", role: "group", "aria-label": "Presets" }, ...presets()),
  ];
  const apart = h("p", { class: "apart" });
  above.push(apart);
  const stage = h("div", { class: "stage" }, h("div", { class: "views" }, ...Object.values(figures)), side);
  const close = open(model, el, [choice("view"), ...above, stage, line()]);
  for (const [key, act] of Object.entries(views)) mount(act, figures[key]);

  const choose = () => {
    const own = state.view === "weight" ? [] : state.show.split(",").filter((key) => METHODS[key]?.own);
    apart.textContent = own.length
      ? `Drawn in the first view alone: ${own.join(", ")}. This one computes in the browser.`
      : "";
    stage.classList.toggle("alone", state.view === "run");
    for (const [key, figure] of Object.entries(figures)) figure.hidden = key !== state.view;
    for (const part of [side, ...above]) part.hidden = state.view === "run";
  };
  onChange((changed) => {
    if (changed.has("view") || changed.has("show")) choose();
    clearTimeout(saving);
    saving = setTimeout(save, 150); // once it rests: what Python echoes must not undo a later move
  });
  let saving = 0;
  const save = () => {
    model.set("state", written());
    model.save_changes();
  };
  const from = () => model.get("state") === written() || load(model.get("state"));
  model.on("change:state", from);
  from();
  choose();
  const token = (i) =>
    Object.fromEntries(Object.entries(columns(model)).map(([name, all]) => [name, all[i]]));
  el.explorable = { METHODS, PRESETS, state, set, reset, load, written, make, method, weigh, token, waiting }; // for the tests
  return () => {
    close();
    model.off("change:state", from);
  };
}

/** The state as a line of Python that opens the explorer here again. */
function line() {
  const run = RUN ? `run="${RUN.folder}", ` : "",
    text = () => `Explorer(${run}state="${written()}")`;
  const box = h("input", {
    type: "text",
    readonly: true,
    class: "state",
    "aria-label": "This state, in Python",
  });
  onChange(() => (box.value = text()));
  box.value = text();
  const copy = button("Copy this state", async () => {
    box.select();
    await navigator.clipboard?.writeText(box.value).catch(() => {});
  });
  return h("div", { class: "row" }, copy, box);
}
