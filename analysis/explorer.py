"""The explorer in a notebook: curves of every method, including yours, and the tokens of a run. `Explorer()` shows it.

    Explorer()                                    every registered method
    Explorer(run="runs/first")                    with a run's tokens: point at one to read it
    Explorer(state="n=2&show=dgpo,mine&r=0.3")    a state copied from it, or from the explorable's address

Tests run it in JupyterLab. It was tried in marimo 0.25, as `mo.ui.anywidget(Explorer())`, whose `.value["state"]` other
cells follow; VS Code shows anywidgets too, but it was not tried there. The suite's own methods are drawn by the
functions of the explorable; the weights of a method that you registered come from its own `weight`, in Python.
"""

import math
from pathlib import Path

import anywidget
import numpy as np
import pandas as pd
import traitlets

from analysis import run_words, runs, style
from analysis.explorable import bundle
from analysis.landscape import weigh
from dgpo import methods
from dgpo.methods import REGIONS

SIGNS = {"good": style.POSITIVE, "bad": style.NEGATIVE}
_MOST = 6_000  # points of a figure
COLUMNS = ("step", "update", "position", "word", "region", "advantage", "ratio", "prob", "old_prob", "w_log", "w_prob")
_ORDER = ["step", "sequence", "update", "position"]  # so that the next row holds the next token of an answer


class Explorer(anywidget.AnyWidget):
    """A widget. `state` is the text of what its dials hold; each follows the other.

    run       the folder of a run, or a Run: a second view shows its token records, or says what is wrong with them
    state     "NAME=VALUE&...", with the names that the explorable's address uses
    """

    _esm = traitlets.Unicode().tag(sync=True)
    state = traitlets.Unicode().tag(sync=True)
    tokens = traitlets.Bytes().tag(sync=True)

    def __init__(self, run: str | Path | runs.Run | None = None, state: str = ""):
        self._records, self._shown, self._says = pd.DataFrame(), pd.DataFrame(), {}
        about, tokens = (None, b"") if run is None else self._read(run)
        self._keys = bundle.names()  # the run's method among them
        own = [name for name, key in self._keys.items() if key not in bundle.built_in()]
        if own and "show=" not in state:
            state = "&".join(filter(None, [state, "show=" + ",".join([*own, "dgpo", "grpo", "cispo", "pg"])]))
        super().__init__(_esm=bundle.widget("widget.js", about, SIGNS), state=state, tokens=tokens)
        self.on_msg(lambda _, message, buffers: self._answer(message))

    def _read(self, run) -> tuple[dict, bytes]:
        """What the view of a run needs to know, and its tokens; or only the problem."""
        try:
            run = run if isinstance(run, runs.Run) else runs.read(run)
            records = run.tokens()
            self._says = run_words.words(run, records["token"])
        except ValueError as error:
            return {"problem": str(error), "folder": str(run.path if isinstance(run, runs.Run) else run)}, b""
        self._records = records
        acting = records[records["advantage"] != 0]
        self._shown = some(acting).sort_values(_ORDER).reset_index(drop=True)
        return _about(run, len(acting), self._says), table(self._shown, self._says)

    def _answer(self, message: dict) -> None:
        if message["kind"] == "context" and 0 <= message["token"] < len(self._shown):
            (row,) = self._shown.iloc[[message["token"]]].itertuples()
            before, after = run_words.context(self._records, row, self._says)
            self.send({"kind": "context", "token": message["token"], "before": before, "after": after})
        elif message["kind"] == "weights":
            self.send({"kind": "weights", "curves": [self._curve(**asked) for asked in message["curves"]]})

    def _curve(self, key: str, params: dict, A: float, old: float, points: list[float]) -> dict:
        """The weights that a figure needs, from the method's own function; or the error that it raised."""
        asked = {"key": key, "params": params, "A": A, "old": old}
        given = {name: math.inf if value == "inf" else value for name, value in params.items()}  # JSON has no infinity
        try:
            weights = weigh(methods.get(self._keys[key], **given), points, A, old)
        except Exception as error:  # noqa: BLE001  the figure shows the error of the reader's own function
            return asked | {"error": f"{self._keys[key]}: {type(error).__name__}: {error}"}
        return asked | {"points": points, "weights": [w if math.isfinite(w) else "Infinity" for w in weights.tolist()]}


def _about(run: runs.Run, total: int, says: dict[int, str]) -> dict:
    low, high = run.method.trust_region
    return {
        "folder": str(run.path),
        "key": bundle.name(run.method.key),
        "label": style.label(run.method.key),
        "params": run.method.params(),
        "low": low,
        "high": high,
        "total": total,
        "words": list(says.values()),
        "regions": [style.REGION_LABELS[region] for region in REGIONS],
        "columns": COLUMNS,
        "problem": None if total else "every advantage is 0, since in every group all rewards were equal",
    }


def some(acting: pd.DataFrame, most: int = _MOST) -> pd.DataFrame:
    """At most `most` records, at random; those outside the trust region first, since methods differ there."""
    mixed = acting.sample(frac=1, random_state=0)
    return mixed.sort_values("region", key=lambda region: region == "IN", kind="stable").head(most)


def table(records: pd.DataFrame, says: dict[int, str]) -> bytes:
    """Token records as float64, column by column: `COLUMNS`, with words and regions as indices into their lists."""
    place = {token: i for i, token in enumerate(says)}
    records = records.assign(
        word=records["token"].map(place),
        region=records["region"].map(REGIONS.index),
        old_prob=np.exp(records["old_logp"].astype("float64")),
    )
    return records[list(COLUMNS)].to_numpy("float64").T.tobytes()
