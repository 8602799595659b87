"""The train notebook as its users run it: through papermill, in a kernel of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from alike import assert_alike, steady_draws
from papermill.exceptions import PapermillExecutionError
from running import BOOKS, ROOT, execute, rows, run, shown
from watching import children, proc, until, until_gone

from analysis import runs
from dgpo import notebook
from dgpo.config import ConfigError


def test_it_trains_and_draws_and_leaves_a_run_folder(small, tmp_path):
    parameters = {**small, "steps": 3, "n": 2.0, "eps_low": 0.1}
    out = execute("train", tmp_path / "out.ipynb", parameters, cwd=str(tmp_path))
    assert sum("image/png" in data for data in shown(out)) == 4
    outputs = [o for cell in json.loads(out.read_text())["cells"] for o in cell.get("outputs", [])]
    assert not any(o["output_type"] == "error" for o in outputs)
    text = "".join("".join(o.get("text", "")) for o in outputs)
    assert "dgpo(eps_low=0.1, eps_high=0.2, n=2, m=2)" in text
    assert "step 3/3" in text
    done = runs.read(small["run_dir"])
    assert done.config.method_params["n"] == 2.0
    assert len(done.steps) == 3
    assert {p.stem for p in (done.path / "figures").iterdir()} == {"weights", "learning", "regions", "tokens"}


def test_two_ranks_that_are_killed_go_on_and_make_what_one_makes(small, tmp_path, checkpoint, monkeypatch):
    """Papermill and its kernel are killed while the ranks are in step 3, and the same words run again."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'tests'}{os.pathsep}{ROOT}")
    monkeypatch.setenv("STEADY_AT", str(tmp_path / "run" / "checkpoints" / "step_000002"))
    parameters = {**small, "method": "steady:Steady", "ranks": 2}
    words = [str(BOOKS / "train.ipynb"), str(tmp_path / "out.ipynb"), "-y", json.dumps(parameters), "-k", "python3"]
    papermill = subprocess.Popen([sys.executable, "-m", "papermill", *words], stderr=subprocess.DEVNULL)
    until(lambda: papermill.poll() is not None or Path(os.environ["STEADY_AT"]).exists(), "a checkpoint")
    below = children(papermill.pid)
    kernel = [pid for pid in below if "ipykernel_launcher" in proc(f"{pid}/cmdline")]
    for pid in (papermill.pid, *kernel):
        os.kill(pid, signal.SIGKILL)
    papermill.wait()
    assert len(kernel) == 1
    until_gone(below)
    assert not (tmp_path / "run" / "policy").exists()
    monkeypatch.delenv("STEADY_AT")
    out = execute("train", tmp_path / "out.ipynb", parameters)
    assert sum("image/png" in data for data in shown(out)) == 4
    with pytest.MonkeyPatch.context() as patch:
        steady_draws(patch.setattr)
        one = run(small, run_dir=str(tmp_path / "one"))
    assert_alike(one, tmp_path / "run", checkpoint)
    norms = [[row["grad_norm/mean"] for row in rows(folder)[1:]] for folder in (one, tmp_path / "run")]
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    assert runs.read(tmp_path / "run").summary["ranks"] == 2


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"metod": "grpo"}, "unknown setting metod='grpo' (did you mean 'method'?)"),
        ({"method": "grop"}, "unknown method 'grop'"),
        ({"method": "grpo", "m": 2}, "unknown setting m=2"),
    ],
)
def test_mistakes_stop_it_before_any_training(tmp_path, small, parameters, said):
    with pytest.raises(PapermillExecutionError) as error:
        execute("train", tmp_path / "out.ipynb", {"run_dir": small["run_dir"], **parameters}, cwd=str(tmp_path))
    assert said in str(error.value)
    assert "Traceback" not in str(error.value)  # the notebook shows the message alone
    assert not Path(small["run_dir"]).exists()


def test_the_weights_of_finished_runs_are_read_side_by_side(small, tmp_path):
    folders = [str(tmp_path / key) for key in ("grpo", "dgpo")]
    for key, folder in zip(("grpo", "dgpo"), folders, strict=True):
        run(small, method=key, run_dir=folder)
    out = execute("07_weights_of_a_run", tmp_path / "out.ipynb", {"run_dirs": folders})
    assert sum("image/png" in data for data in shown(out)) == 4


def test_without_finished_runs_they_are_trained_first(small, tmp_path):
    own = {
        name: value for name, value in small.items() if name not in ("run_dir", "steps", "num_minibatches", "method")
    }
    parameters = {"methods": ["grpo"], "steps": 1, "num_minibatches": 2, "out": str(tmp_path / "runs"), "settings": own}
    out = execute("07_weights_of_a_run", tmp_path / "out.ipynb", parameters)
    assert sum("image/png" in data for data in shown(out)) == 4
    assert (tmp_path / "runs" / "grpo" / "summary.json").exists()


class TestParameters:
    OWN = "# Parameters of this notebook\n"

    def test_names_come_from_the_marked_cells_only(self):
        cells = ["", self.OWN + "method = 'grpo'\nsteps: int = 3", "# Parameters\nseed = 4\n", "x = 1"]
        namespace = {"In": cells, "method": "grpo", "steps": 3, "x": 1, "seed": 4}
        assert notebook.parameter_names(namespace) == (["method", "steps"], ["seed"])
        assert notebook.config({**namespace, "steps": None}).seed == 4

    def test_a_line_deleted_from_the_cell_is_gone(self):
        """In JupyterLab the cell is run again and again in one kernel, and old values stay in its namespace."""
        cells = [self.OWN + "method = 'dgpo'\nn = 2.0\nlr = 0.1", self.OWN + "method = 'grpo'"]
        config = notebook.config({"In": cells, "method": "grpo", "n": 2.0, "lr": 0.1})
        assert (config.method, config.lr) == ("grpo", 3e-4)

    def test_a_path_of_the_repository_is_found_from_its_root_and_from_the_notebooks_folder(self, monkeypatch, tmp_path):
        for place, found in ((ROOT, "examples"), (BOOKS, "../examples")):
            monkeypatch.chdir(place)
            assert notebook.find("examples") == Path(found)
            assert notebook.find(tmp_path / "elsewhere") == tmp_path / "elsewhere"

    def test_other_notebooks_know_the_names_of_their_own_cell(self):
        notebook.check({"In": [self.OWN + "seeds = 3\nsteps = 2", "# Parameters\nsteps = 5"]})
        with pytest.raises(ConfigError, match="unknown parameter 'step'; this notebook has: seeds, steps"):
            notebook.check({"In": [self.OWN + "seeds = 3\nsteps = 2", "# Parameters\nstep = 5"]})

    def test_without_a_parameters_cell_it_says_what_to_do(self):
        with pytest.raises(ConfigError, match="run the parameters cell first"):
            notebook.config({"In": ["x = 1"]})
