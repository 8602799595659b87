"""The progress display in a terminal, a notebook and a pipe."""

import io
import sys

import pytest

from dgpo import progress
from dgpo.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_terminal_gets_one_line_with_step_numbers_and_time_left(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(20, 100) as shown:
        for step in (30, 40):
            clock[0] += 10
            shown.update(step, reward=0.5, heldout=None)
    text = sys.stderr.getvalue()
    assert text.count("\n") == 1
    assert "step 40/100" in text
    assert "reward 0.500" in text
    assert "heldout" not in text
    assert "1:00 left" in text  # 20 steps took 20 seconds, 60 are left


def test_it_does_not_flood(monkeypatch, clock):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(0, 1000) as shown:
        for step in range(1, 1001):
            clock[0] += 0.01
            shown.update(step)
    assert sys.stderr.getvalue().count("\r") <= 10 / progress._INTERVAL + 2


def test_a_pipe_gets_nothing(monkeypatch, capsys):
    with Progress(0, 2) as shown:
        shown.update(1, reward=1.0)
        shown.update(2, reward=1.0)
    assert capsys.readouterr() == ("", "")


def test_a_notebook_gets_a_live_line_and_a_printed_one_for_every_tenth(monkeypatch, clock, capsys):
    pytest.importorskip("IPython")
    shown_lines = []

    class Handle:
        def update(self, data, raw):
            shown_lines.append(data["text/plain"])

    monkeypatch.setattr(progress, "_in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda data, raw, display_id: Handle())
    with Progress(0, 50) as shown:
        for step in range(1, 51):
            clock[0] += 1
            shown.update(step)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 10
    assert printed[-1].startswith("step 50/50")
    assert shown_lines[-1] == ""  # what stays in the notebook are the printed lines
