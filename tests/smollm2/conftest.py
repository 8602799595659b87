"""The trainer with a real language model, SmolLM2-135M-Instruct. `make test-smollm2` fetches it and runs these."""

from pathlib import Path

import pytest

GGUF = Path(__file__).parents[2] / "models/smollm2-135m/SmolLM2-135M-Instruct.Q4_1.gguf"

if not GGUF.exists():
    collect_ignore_glob = ["test_*"]


def pytest_report_header():
    return [] if GGUF.exists() else [f"tests/smollm2 is skipped: {GGUF.name} is not there, `make smollm2` fetches it"]


@pytest.fixture(scope="session")
def gguf():
    pytest.importorskip("gguf")
    return GGUF


@pytest.fixture(scope="session")
def checkpoint(gguf, tmp_path_factory):
    """The same model as an ordinary checkpoint folder."""
    from dgpo.model.loading import load_lm

    folder = tmp_path_factory.mktemp("smollm2")
    lm, tokenizer = load_lm(gguf)
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
