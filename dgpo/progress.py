"""A progress display: one line in a terminal, one self-replacing line in a notebook, nothing otherwise."""

import sys
import time

_INTERVAL = 0.5  # seconds between redraws; a flood of output loses notebook cells


class Progress:
    """Shows step, reward and time left. `with Progress(done, total) as p: p.update(step, reward=0.5)`."""

    def __init__(self, done: int, total: int, unit: str = "step"):
        self.start, self.total, self.unit = done, total, unit
        self.began, self.shown, self.handle, self.line = time.monotonic(), 0.0, None, ""
        self.mode = "notebook" if _in_notebook() else "terminal" if sys.stderr.isatty() else "quiet"

    def __enter__(self):
        return self

    def update(self, done: int, **values: float | None) -> None:
        """Redraw when half a second has passed, and at the end."""
        now = time.monotonic()
        self.line = self._text(done, now, values)
        if now - self.shown >= _INTERVAL or done >= self.total:
            self.shown = now
            self._draw()

    def __exit__(self, *_):
        if self.line:
            self._draw()
            if self.mode == "terminal":
                print(file=sys.stderr)

    def _text(self, done: int, now: float, values: dict) -> str:
        fresh = done - self.start
        left = (now - self.began) / fresh * (self.total - done) if fresh else float("nan")
        filled = round(20 * done / max(self.total, 1))
        parts = [f"{self.unit} {done}/{self.total}", "█" * filled + "░" * (20 - filled)]
        parts += [f"{name} {value:.3f}" for name, value in values.items() if value is not None]
        if fresh:
            parts.append(f"{int(left // 60)}:{int(left % 60):02d} left")
        return "  ".join(parts)

    def _draw(self) -> None:
        if self.mode == "terminal":
            print(f"\r\x1b[2K{self.line}", end="", file=sys.stderr, flush=True)
        elif self.mode == "notebook":
            from IPython.display import Pretty, display

            class Line(Pretty):
                def __repr__(self):
                    return self.data

            if self.handle is None:
                self.handle = display(Line(self.line), display_id=True)
            else:
                self.handle.update(Line(self.line))


def _in_notebook() -> bool:
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"
