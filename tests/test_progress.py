"""The progress display in a terminal, a notebook and a pipe."""

import errno
import io
import os
import sys

import pytest

from dgpo import __main__ as cli
from dgpo import progress
from dgpo.progress import Progress, tell


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Gone(Terminal):
    """A terminal that was closed in the meantime."""

    tries = 0

    def write(self, text):
        self.tries += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))


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

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", lambda data, raw, display_id: Handle())
    with Progress(0, 50) as shown:
        for step in range(1, 51):
            clock[0] += 1
            shown.update(step)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 10
    assert printed[-1].startswith("step 50/50")
    assert shown_lines[-1] == ""  # what stays in the notebook are the printed lines


def closed():
    terminal = Terminal()
    terminal.close()
    return terminal


@pytest.mark.parametrize("stderr", [Gone(), closed(), None])
def test_without_a_terminal_the_run_goes_on_and_is_quiet(monkeypatch, clock, stderr):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with Progress(0, 10) as shown:
        shown.update(1)
        monkeypatch.setattr(sys, "stderr", stderr)
        for step in range(2, 11):
            clock[0] += 1
            shown.update(step)
        with Progress(0, 10) as from_the_start:
            clock[0] += 1
            from_the_start.update(1)
    assert from_the_start.mode == "quiet"
    if stderr is not None:  # else print itself says nothing
        assert shown.mode == "quiet"
    if isinstance(stderr, Gone):
        assert stderr.tries == 2  # once by either display


@pytest.mark.parametrize("fault", ["display", "update", "print"])
def test_a_notebook_whose_front_end_fails_goes_on(monkeypatch, clock, fault):
    pytest.importorskip("IPython")

    def fail(*_, **__):
        raise RuntimeError("the front end is gone")

    class Handle:
        update = fail if fault == "update" else lambda *_, **__: None

    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", fail if fault == "display" else lambda *_, **__: Handle())
    monkeypatch.setattr(sys, "stdout", Gone() if fault == "print" else Terminal())
    with Progress(0, 10) as shown:
        for step in range(1, 11):
            clock[0] += 1
            shown.update(step)
    assert shown.mode == "quiet"


def test_without_a_terminal_the_exit_code_is_the_same(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone())
    assert cli.main(["train", "lr=high"]) == 2


def test_what_a_run_says_cannot_end_it(monkeypatch, capsys):
    assert tell("sums round otherwise")
    assert capsys.readouterr().err == "sums round otherwise\n"
    for stderr in (Gone(), closed()):
        monkeypatch.setattr(sys, "stderr", stderr)
        assert not tell("sums round otherwise")
