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

/** Whether what lies behind an element is dark. A canvas reads every way to write a colour. */
function dark(element) {
  const brush = h("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  for (let at = element; at; at = at.parentElement ?? at.getRootNode().host) {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = getComputedStyle(at).backgroundColor;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, alpha] = brush.getImageData(0, 0, 1, 1).data;
    if (alpha > 127) return 0.2126 * r + 0.7152 * g + 0.0722 * b < 110;
  }
  return false;
}
