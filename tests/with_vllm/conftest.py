"""The real vLLM engine on a CPU, with policies whose attention heads it can compute. `make test-vllm` runs these."""

import importlib.util

import pytest

if importlib.util.find_spec("vllm") is None:
    collect_ignore_glob = ["*"]

TINY = {"hidden": 64, "layers": 2, "heads": 2, "max_difficulty": 2, "steps": 200, "seed": 0}


@pytest.fixture
def small(small):
    """Settings of a run of a few seconds that samples with vLLM."""
    return {**small, "rollout": "vllm", "tiny": TINY}


@pytest.fixture(scope="session")
def tied():
    """The folder of a warmed-up policy; its output layer is its embedding."""
    from dgpo.config_parts import TinyPolicy
    from dgpo.model import tiny

    return tiny.checkpoint(TinyPolicy(**TINY))


@pytest.fixture(scope="session")
def untied(tied, tmp_path_factory):
    """The same policy with an output layer of its own."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from dgpo.model.loading import load_lm

    lm, tokenizer = load_lm(tied)
    config = Qwen2Config.from_pretrained(tied, tie_word_embeddings=False)
    own = Qwen2ForCausalLM(config)
    own.load_state_dict(lm.state_dict())
    own.generation_config = lm.generation_config
    folder = tmp_path_factory.mktemp("untied")
    own.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
