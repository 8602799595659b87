"""A run as it grows, in the notebook that trains it: `live.watch(config)` before the training, in the same cell.

A thread reads the run folder, so it works whether this process trains or other ranks do. Each step redraws reward,
entropy, the shares outside the trust region and the weights of the tokens, until the cell ends.
"""

import json
import os
import threading
from pathlib import Path

import anywidget
import pandas as pd
import traitlets
from IPython.core.getipython import get_ipython
from IPython.display import display

from analysis import style
from analysis.explorable import bundle
from analysis.explorer import SIGNS, some
from analysis.plots import OUTSIDE
from dgpo.config import Config
from dgpo.run.rows import read_rows

_EVERY = 2.0  # seconds
_POINTS = 4_000  # points of the scatter at the end of the run
_COLUMNS = ("advantage", "ratio", "w_prob")


class Live(anywidget.AnyWidget):
    """A widget for the run of a Config; `refresh` reads the folder's current state."""

    _esm = traitlets.Unicode().tag(sync=True)
    rows = traitlets.Unicode("[]").tag(sync=True)
    tokens = traitlets.Bytes().tag(sync=True)

    def __init__(self, config: Config):
        self._folder, self._most = Path(config.run_dir), max(20, _POINTS // max(config.steps, 1))
        self._read: dict[tuple[Path, int], pd.DataFrame] = {}  # by file and time of writing
        low, high = config.make_method().trust_region
        about = {
            "key": bundle.name(config.method),
            "steps": config.steps,
            "low": low,
            "high": high,
            "columns": _COLUMNS,
            "outside": {region: style.REGION_LABELS[region].split("  ")[0] for region in OUTSIDE},
        }
        super().__init__(_esm=bundle.widget("live.js", about, SIGNS | style.REGION_COLOURS))

    def refresh(self) -> None:
        """Send what is new. A folder that does not exist yet, or is being written, is read next time."""
        try:
            rows = [row for row in read_rows(self._folder / "metrics.jsonl") if row["step"] > 0]
            frames = [self._tokens(path) for path in sorted(self._folder.glob("tokens/step_*.parquet"))]
        except (OSError, ValueError):
            return
        wanted = ("step", "reward/mean", "entropy", *(f"w_prob/{region}" for region in OUTSIDE))
        self.rows = json.dumps([{name: row.get(name) for name in wanted} for row in rows])
        if frames := [frame for frame in frames if len(frame)]:
            self.tokens = pd.concat(frames)[[*_COLUMNS]].to_numpy("float64").T.tobytes()

    def _tokens(self, path: Path) -> pd.DataFrame:
        key = (path, path.stat().st_mtime_ns)
        if key not in self._read:
            frame = pd.read_parquet(path)
            self._read[key] = some(frame[frame["advantage"] != 0], self._most) if len(frame) else frame
        return self._read[key]


def watch(config: Config) -> Live | None:
    """Draw the run of this cell until the cell ends; draw nothing where no browser shows the notebook (papermill)."""
    shell = get_ipython()
    if shell is None or not _shown(shell):
        return None
    live, over = Live(config), threading.Event()

    def follow():
        while not over.wait(_EVERY):
            live.refresh()

    def end(*_):
        over.set()
        thread.join()
        live.refresh()
        shell.events.unregister("post_run_cell", end)

    thread = threading.Thread(target=follow, daemon=True)
    display(live)
    thread.start()
    shell.events.register("post_run_cell", end)
    return live


def _shown(shell) -> bool:
    """Whether JupyterLab or VS Code started this kernel for a notebook that it shows."""
    return "JPY_SESSION_NAME" in os.environ or "__vsc_ipynb_file__" in shell.user_ns
