"""What a run prints while it works; no failure here can end the run.

A progress display is one line in a terminal, one self-replacing line in a notebook, and nothing otherwise.
"""

import sys
import time
from typing import IO

from dgpo.distributed import process_group

_INTERVAL = 0.5  # seconds between redraws; a flood of output loses notebook cells


def tell(text: str, file: IO[str] | None = None, end: str = "\n") -> bool:
    """Print to stderr, or another file. Returns whether that worked: the terminal or reader may be gone."""
    try:
        print(text, end=end, file=file or sys.stderr, flush=True)
    except (OSError, ValueError):  # the ValueError is of a file that was closed here
        return False
    return True


class Progress:
    """Shows the work done, some numbers and the time left. `with Progress(0, 100) as p: p.update(step, reward=0.5)`.

    A saved notebook keeps no live display, so a line for every tenth of the work is printed there too. Once printing
    fails, the display stays quiet for the rest of the run.
    """

    def __init__(self, done: int, total: int, unit: str = "step"):
        self.start, self.total, self.unit = done, total, unit
        self.began, self.shown, self.handle, self.line = time.monotonic(), 0.0, None, ""
        self.mode = _display() if process_group.rank() == 0 else "quiet"

    def __enter__(self):
        return self

    def update(self, done: int, **values: float | None) -> None:
        """Show that `done` of `total` are done; at most twice a second."""
        now = time.monotonic()
        self.line = self._text(done, now, values)
        if now - self.shown >= _INTERVAL:
            self.shown = now
            self._draw(self.line)
        if self.mode == "notebook" and (10 * done // self.total > 10 * (done - 1) // self.total):
            self._keep_if(tell(self.line, sys.stdout))

    def __exit__(self, *_):
        if self.mode == "terminal" and self.line:
            self._draw(self.line + "\n")
        elif self.handle:
            self._draw("")

    def _text(self, done: int, now: float, values: dict) -> str:
        filled = round(20 * done / self.total)
        parts = [f"{self.unit} {done}/{self.total}", "█" * filled + "░" * (20 - filled)]
        parts += [
            f"{name} {value:{'' if isinstance(value, int) else '.3f'}}"
            for name, value in values.items()
            if value is not None
        ]
        left = (now - self.began) / max(done - self.start, 1) * (self.total - done)
        return "  ".join([*parts, f"{int(left // 60)}:{int(left % 60):02d} left"])

    def _draw(self, line: str) -> None:
        if self.mode == "terminal":
            self._keep_if(tell(f"\r\x1b[2K{line}", end=""))
        elif self.mode == "notebook":
            try:
                self._draw_in_notebook({"text/plain": line})
            except Exception:  # noqa: BLE001 (a front end has errors of its own)
                self._keep_if(False)

    def _draw_in_notebook(self, content: dict[str, str]) -> None:
        if self.handle is None:
            from IPython.display import display

            self.handle = display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)

    def _keep_if(self, shown: bool) -> None:
        if not shown:
            self.mode, self.handle = "quiet", None


def _display() -> str:
    try:
        return "notebook" if in_notebook() else "terminal" if sys.stderr.isatty() else "quiet"
    except (AttributeError, ValueError):  # no stderr, or a closed one
        return "quiet"


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook."""
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
