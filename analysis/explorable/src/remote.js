// Weights that Python computes, for methods whose formula is in no module here. A figure asks for the points
// that it draws; where one is not known yet, Python is asked, and the figure is drawn again with the answer.
const KEPT = 300; // curves

const known = new Map(); // of a curve's name: log r → weight, or the Error that Python had
const listeners = [];
let wanted = new Map(),
  send = null,
  sent = false;

// JSON has no infinity.
const plain = (params) =>
  Object.fromEntries(Object.entries(params).map(([name, x]) => [name, x === Infinity ? "inf" : x]));

/** `post(message)` sends to Python. */
export const connect = (post) => (send = post);
export const onAnswer = (listener) => listeners.push(listener);

/** w_log of a method at log ratio d; 1 stands in for what is not known yet (see `asked`). */
export function remote(key) {
  return (d, A, old, params) => {
    const curve = { key, params: plain(params), A, old },
      name = JSON.stringify(curve),
      found = known.get(name);
    if (found instanceof Error) throw found;
    if (found?.has(d)) return found.get(d);
    if (!wanted.has(name)) wanted.set(name, { ...curve, points: new Set() });
    wanted.get(name).points.add(d);
    return 1;
  };
}

/** Whether the last drawing lacked weights. They are asked for, one question at a time: the dials may move on. */
export function asked() {
  if (!wanted.size) return false;
  if (!sent) {
    const curves = [...wanted.values()].map((curve) => ({ ...curve, points: [...curve.points] }));
    send({ kind: "weights", curves });
    sent = true;
  }
  wanted = new Map();
  return true;
}

/** Whether Python still has to answer. */
export const waiting = () => sent;

/** Python's answer: for each curve its points and weights, or the error that the method raised. */
export function answer(curves) {
  if (known.size > KEPT) known.clear();
  for (const { key, params, A, old, points, weights, error } of curves) {
    const name = JSON.stringify({ key, params, A, old });
    if (error) known.set(name, new Error(error));
    else
      known.set(
        name,
        new Map([...(known.get(name) || []), ...points.map((d, i) => [d, Number(weights[i])])]),
      );
  }
  sent = false;
  for (const listener of listeners) listener();
}
