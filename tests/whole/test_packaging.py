"""The files that describe the package agree with each other."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def test_the_conda_environment_has_the_content_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, section = environment["dependencies"]
    assert python == f"python {PROJECT['requires-python']}"
    assert pip == "pip"
    assert sorted(section["pip"]) == sorted({*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]})


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-vllm.txt"])
def test_what_is_pinned_is_what_is_allowed(file):
    pins = [Requirement(line) for line in (ROOT / file).read_text().splitlines() if not line.startswith("#")]
    pinned = {pin.name.lower().replace("_", "-"): next(iter(pin.specifier)).version for pin in pins}
    for text in (*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]):
        wanted = Requirement(text)
        assert wanted.specifier.contains(pinned[wanted.name.lower()]), text


def test_a_folder_named_dgpo_does_not_hide_the_package(tmp_path):
    """`make train` leaves runs/dgpo beside runs/dgpo.ipynb, whose kernel starts in runs/."""
    (tmp_path / "dgpo").mkdir()
    code = "import dgpo; print(dgpo.train.__module__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_import_is_a_dependency():
    """Third-party imports of the packages, by name, against the declared dependencies."""
    declared = {Requirement(t).name.lower().replace("-", "_") for t in PROJECT["dependencies"]}
    declared |= {
        "yaml",
        "IPython",
        "traitlets",
        "tokenizers",
        "huggingface_hub",
        "safetensors",
        "jinja2",
        "antlr4",
        "latex2sympy2_extended",
    }  # pyyaml; and what transformers and jupyter bring
    declared |= {
        Requirement(t).name.lower() for extra in ("gpu", "dev") for t in PROJECT["optional-dependencies"][extra]
    }
    trainers = {path.stem for path in ROOT.glob("dgpo/integrations/*.py")}  # each imports its own trainer
    for path in [*ROOT.glob("dgpo/**/*.py"), *ROOT.glob("analysis/**/*.py")]:
        allowed = declared | ({"ray", *trainers} if path.parent.name == "integrations" else set())
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 else []
            for name in {n.split(".")[0] for n in names} - set(sys.stdlib_module_names) - {"dgpo", "analysis"}:
                assert name in allowed, f"{path.relative_to(ROOT)} imports {name}"


def imported(path):
    """The modules that a file imports, within functions too; what is for type checkers alone is left out."""
    tree = ast.parse(path.read_text())
    tree.body = [n for n in tree.body if not (isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from [f"dgpo.{a.name}" for a in node.names] if node.module == "dgpo" else [node.module]
        yield from [alias.name for alias in node.names] if isinstance(node, ast.Import) else ()


LAYERS = [  # each imports from those before it alone; docs/architecture.md says what each is
    "errors",
    "plain",
    "files",
    "lifetimes",
    "seeds",
    "written",
    "rewards",
    "verifier",
    "data",
    "methods",
    "batch",
    "objective",
    "settings",
    "config_parts",
    "config_rules",
    "config",
    "distributed",
    "progress",
    "tasks",
    "model",
    "rollout",
    "run",
    "cards",
    "shapes",
    "plan",
    "memory",
    "ways",
    "room",
    "engine",
    "evaluation",
    "collect",
    "trainer",
    "launch",
    "sweeps",
    "describe",
    "api",
    "notebook",
    "integrations",
]


@pytest.mark.parametrize("layer", LAYERS)
def test_arrows_point_one_way(layer):
    """notebooks → analysis → dgpo, and within dgpo down the LAYERS, imports within functions included."""
    allowed = {"__version__", *LAYERS[: LAYERS.index(layer) + 1]}
    paths = [*ROOT.glob(f"dgpo/{layer}.py"), *ROOT.glob(f"dgpo/{layer}/**/*.py")]
    assert paths
    for path in paths:
        if path == ROOT / "dgpo/verifier/__main__.py":
            continue  # a program, which reads files of problems
        for name in imported(path):
            first, _, rest = name.partition(".")
            assert first not in ("analysis", "notebooks"), (path, name)
            assert first != "dgpo" or rest.partition(".")[0] in allowed, (path, name)


def test_every_module_has_a_layer():
    modules = {path.relative_to(ROOT / "dgpo").parts[0].removesuffix(".py") for path in ROOT.glob("dgpo/**/*.py")}
    assert modules == {*LAYERS, "__init__", "__main__"}


def test_methods_and_objective_know_torch_alone():
    leaves = ("dgpo.errors", "dgpo.plain")
    core = [*ROOT.glob("dgpo/methods/*.py"), ROOT / "dgpo/batch.py", ROOT / "dgpo/objective.py"]
    may = dict.fromkeys(core, (*leaves, "dgpo.batch", "dgpo.methods", "torch"))
    may |= {ROOT / f"{leaf.replace('.', '/')}.py": leaves for leaf in leaves}
    for path, known in may.items():
        for name in imported(path):
            assert name.split(".")[0] in sys.stdlib_module_names or name.startswith(known), (path, name)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_thin_and_bare(path):
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert cells[0]["cell_type"] == "markdown"
    assert sum("parameters" in cell["metadata"].get("tags", []) for cell in code) == 1
    for cell in code:
        assert not cell["outputs"]
        assert cell["execution_count"] is None
        assert len("".join(cell["source"]).splitlines()) <= (
            20 if "parameters" in cell["metadata"].get("tags", []) else 15
        )


def test_the_readme_names_the_commands_that_exist():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make ([a-z]+)", readme)):
        assert re.search(rf"^{target}:", makefile, re.M), target
    assert "make train" in readme
    assert "make test" in readme
