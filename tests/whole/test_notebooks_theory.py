"""The notebooks of theory run from top to bottom, carry no outputs, and know their parameters."""

import nbformat
import pytest
from running import BOOKS, execute, shown

SMALL = {
    "01_two_gradients": {},
    "02_what_diverges": {"steps": 600, "batches": 20},
    "03_bandit": {"seeds": 3, "steps": 20, "rates": [0.1, 1.0], "rate_seeds": 2},
    "04_softmax_policies": {"seeds": 3, "steps": 10, "leak_steps": 20},
    "05_explorer": {"state": "n=2&show=dgpo,mine"},
    "06_your_own_method": {"seeds": 3, "steps": 20},
    "08_bias_and_variance": {"policies": 10, "tokens": 16, "points": 6},
    "09_your_own_task": {
        "steps": 2,
        "difficulty": 2,
        "run_dir": "{tmp}/run",
        "settings": {"tiny": {"steps": 100, "max_difficulty": 2}, "eval_problems": 8, "eval_every": 2},
    },
    "10_a_language_model": {"shown": 2},
    "11_sequences": {"seeds": 2, "steps": 4, "rates": [0.01, 0.04]},
}


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name, tmp_path):
    given = {k: v.format(tmp=tmp_path) if k == "run_dir" else v for k, v in SMALL[name].items()}
    out = execute(name, tmp_path / "out.ipynb", given)
    assert any("image/png" in data for data in shown(out))


def parameters_of(book):
    """The names in the one cell tagged parameters; no cell is long or has stored outputs."""
    code = [c for c in book.cells if c.cell_type == "code"]
    assert not any(c.outputs or c.execution_count for c in code), "outputs are stored"
    assert all(len(c.source.splitlines()) < 16 for c in code)
    (tagged,) = [c for c in code if "parameters" in c.metadata.get("tags", [])]
    return {line.split("=")[0].strip() for line in tagged.source.splitlines()}


SOLVED = sorted(path.stem for path in (BOOKS / "solutions").glob("*.ipynb"))
SHORT = {  # of solutions that train; what they assert holds after two steps as well
    "05_explorer": {"out": "{tmp}/run"},
    "07_weights_of_a_run": {"out": "{tmp}", "steps": 2},
    "09_your_own_task": {"out": "{tmp}", "steps": 2, "difficulty": 3, "warm_up": 100},
}


def test_all_notebooks_with_exercises_have_solutions():
    asking = {p.stem for p in BOOKS.glob("*.ipynb") if "## Exercises" in p.read_text("utf-8")}
    assert asking == {*SOLVED}


@pytest.mark.parametrize("name", SOLVED)
def test_its_solutions_hold(name, tmp_path):
    """They run, and what they assert holds; there are three, as there are exercises."""
    given = {k: v.format(tmp=tmp_path) if k == "out" else v for k, v in SHORT.get(name, {}).items()}
    execute(f"solutions/{name}", tmp_path / "out.ipynb", given)
    book = nbformat.read(BOOKS / f"solutions/{name}.ipynb", 4)
    assert sum(c.source.startswith("## ") for c in book.cells) == 3
    parameters_of(book)


@pytest.mark.parametrize("name", SMALL)
def test_its_form(name):
    book = nbformat.read(BOOKS / f"{name}.ipynb", 4)
    assert set(SMALL[name]) <= parameters_of(book), "papermill only warns about an unknown parameter"
    assert book.cells[0].cell_type == "markdown"
    last = book.cells[-1].source
    assert "## Summary" in last
    assert [f"\n{i}. " in last for i in (1, 2, 3, 4)] == [True, True, True, False]
    assert book.metadata.kernelspec.name == "python3"
