"""The suites that are run by themselves (a browser, vLLM, peers, a language model) keep up with what they import."""

import ast
import importlib
from pathlib import Path

import pytest

from dgpo.integrations.common import HookMoved

ROOT = Path(__file__).parents[2]
SUITES = [p for p in (ROOT / "tests").glob("*/*.py") if p.parent.name in ("browser", "peers", "smollm2", "with_vllm")]
OURS = {"analysis", "benchmarks", "dgpo", "tests", *(path.stem for path in (ROOT / "tests").glob("*.py"))}


@pytest.mark.parametrize("path", SUITES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_it_imports_from_here_exists(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in OURS:
            for alias in node.names:
                check(node.module, alias.name)


def check(module, name):
    try:
        if not hasattr(importlib.import_module(module), name):
            importlib.import_module(f"{module}.{name}")
    except HookMoved:  # an adapter, whose trainer its suite installs
        pass
    except ModuleNotFoundError as error:  # likewise, if it is another package
        if str(error.name).split(".")[0] in OURS:
            raise
