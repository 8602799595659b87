"""A run that grows is read from its folder, and shown where a browser shows the notebook."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import running
from running import SMALL

from analysis import live, runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return runs.read(running.run(SMALL, run_dir=str(tmp_path_factory.mktemp("runs") / "a")))


@pytest.fixture
def growing(made, tmp_path):
    """A Config whose folder does not exist yet, and a function that fills it up to a step."""
    folder = tmp_path / "grows"

    def until(step):
        (folder / "tokens").mkdir(parents=True, exist_ok=True)
        rows = (made.path / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(r for r in rows if json.loads(r)["step"] <= step))
        for file in sorted(made.path.glob("tokens/*"))[:step]:
            shutil.copy(file, folder / "tokens")

    return made.config.model_copy(update={"run_dir": str(folder)}), until


def test_it_shows_what_the_folder_has(made, growing):
    config, until = growing
    shown = live.Live(config)
    shown.refresh()
    assert (shown.rows, shown.tokens) == ("[]", b"")
    for step in (1, 4):
        until(step)
        shown.refresh()
        rows = json.loads(shown.rows)
        assert [row["step"] for row in rows] == [*range(1, step + 1)]
        assert rows[-1]["reward/mean"] == made.steps.set_index("step")["reward/mean"][step]
        records = made.tokens(step)
        acting = records[records["advantage"] != 0]
        advantage, ratio, w_prob = np.frombuffer(shown.tokens).reshape(3, -1)
        assert sorted(ratio) == sorted(acting["ratio"].astype("float64"))
        assert sorted(w_prob) == sorted(acting["w_prob"])
        assert (advantage != 0).all()


def test_what_is_half_written_waits_for_the_next_time(growing):
    config, until = growing
    until(2)
    shown = live.Live(config)
    shown.refresh()
    before = shown.rows, shown.tokens
    until(3)
    (Path(config.run_dir) / "tokens/step_000003.parquet").write_bytes(b"PAR1")
    shown.refresh()
    assert (shown.rows, shown.tokens) == before
    until(3)
    shown.refresh()
    assert len(json.loads(shown.rows)) == 3


class Shell(SimpleNamespace):
    """What `watch` needs of IPython's shell."""

    def __init__(self, **names):
        self.user_ns, self.ended = names, []
        self.events = SimpleNamespace(
            register=lambda event, f: self.ended.append((event, f)),
            unregister=lambda event, f: self.ended.remove((event, f)),
        )


def test_it_is_quiet_where_no_browser_is(monkeypatch, growing):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(live, "display", lambda what: pytest.fail("shown"))
    for shell in (None, Shell()):
        monkeypatch.setattr(live, "get_ipython", lambda shell=shell: shell)
        assert live.watch(growing[0]) is None


def test_it_ends_with_its_cell_and_has_the_last_step(monkeypatch, growing):
    shown, shell = [], Shell(__vsc_ipynb_file__="train.ipynb")
    monkeypatch.setattr(live, "display", shown.append)
    monkeypatch.setattr(live, "get_ipython", lambda: shell)
    watched = live.watch(growing[0])
    assert shown == [watched]
    growing[1](4)
    ((event, end),) = shell.ended
    assert event == "post_run_cell"
    end(None)
    assert len(json.loads(watched.rows)) == 4
    assert shell.ended == []
    assert not [t for t in live.threading.enumerate() if t.name.endswith("(follow)")]
