"""What a command line says, for the tests of mistakes."""

import sys

import pytest

from dgpo import __main__ as cli


@pytest.fixture
def said(capsys, monkeypatch, tmp_path):
    """A function that runs a command line in an empty folder: (exit code, what is on stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "dgpo.trainer", None)  # importing it would raise another error

    def run(*words):
        capsys.readouterr()
        return cli.main([*words]), capsys.readouterr().err

    return run
