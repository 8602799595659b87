"""The suites that are run by themselves (a browser, vLLM, peers, a language model) keep up with what they import."""

import ast
import importlib
from pathlib import Path

import pytest

from dgpo.integrations.common import HookMoved

ROOT = Path(__file__).parents[2]
SUITES = [
    path for name in ("browser", "peers", "smollm2", "with_vllm") for path in (ROOT / "tests" / name).glob("*.py")
]
OURS = {"analysis", "benchmarks", "dgpo", *(path.stem for path in (ROOT / "tests").glob("*.py"))}


@pytest.mark.parametrize("path", SUITES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_it_imports_from_here_exists(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS | {"tests"}:
            try:
                module = importlib.import_module(node.module)
            except ModuleNotFoundError as error:
                if str(error.name).split(".")[0] in OURS | {"tests"}:
                    raise
                continue  # of another package, which that suite installs
            except HookMoved:
                continue  # likewise
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")
