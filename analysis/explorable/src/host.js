// A widget's own corner of a notebook: a shadow tree, so that neither's looks reach the other.
import { h } from "./controls.js";
import { STYLE } from "./data.js";
import { answer, connect } from "./remote.js";

const listeners = { weights: ({ curves }) => answer(curves) };

/** What to do with a message of a kind from Python. */
export const onMessage = (kind, listener) => (listeners[kind] = listener);

/** Put `children` into `el`, dark or light as the notebook is; returns what ends it. */
export function open(model, el, children) {
  el.dataset.lmSuppressShortcuts = "true"; // keys pressed here are not JupyterLab's
  const root = el.attachShadow({ mode: "open" });
  root.append(h("style", {}, STYLE), h("div", { class: "explorer" }, ...children));
  connect((message) => model.send(message));
  const listen = (message) => listeners[message.kind]?.(message);
  model.on("msg:custom", listen);
  const theme = () => (el.dataset.theme = dark(el) ? "dark" : "light");
  const watch = new MutationObserver(theme); // JupyterLab, VS Code and marimo say on the body which theme they have
  watch.observe(document.body, { attributes: true });
  new ResizeObserver(theme).observe(el); // once it is on the page
  return () => {
    watch.disconnect();
    model.off("msg:custom", listen);
  };
}

/** Whether what lies behind an element is dark. */
function dark(element) {
  for (let at = element; at; at = at.parentElement ?? at.getRootNode().host) {
    const [r, g, b, alpha = 1] = getComputedStyle(at)
      .backgroundColor.match(/[\d.]+/g)
      .map(Number);
    if (alpha > 0.5) return 0.2126 * r + 0.7152 * g + 0.0722 * b < 110;
  }
  return false;
}
