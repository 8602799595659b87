"""The branches of the vLLM sampler that only a GPU takes, on a strict stand-in for the engine."""

import os
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import pytest
import torch
import vllm_stub

from dgpo import config as configs
from dgpo.config import ConfigError
from dgpo.rollout import Sampling, vllm
from dgpo.rollout.vllm import VLLMSampler

REQUEST = [[3, 4], [5, 6, 7]], [1, 2], Sampling(8, temperature=0.5)


@pytest.fixture
def make(monkeypatch, checkpoint):
    vllm_stub.install(monkeypatch)

    def make(dtype="float32", head_dtype="model", **vllm):
        settings = {"dtype": dtype, "head_dtype": head_dtype, "vllm": vllm}
        config = configs.load("tiny", rollout="vllm", **settings, generation_batch_size=16)
        return VLLMSampler(config, str(checkpoint), pad=0, stop=[1], length=64)

    return make


def weights():
    return iter([("w", torch.ones(2))])


def test_a_step_samples_sleeps_wakes_the_weights_loads_them_and_then_wakes_the_cache(make):
    sampler = make(gpu_memory=0.6)
    batch = sampler.generate(*REQUEST)
    assert batch.completion[:, :2].tolist() == [[4, 1], [7, 1]]
    assert batch.finished.all()
    torch.testing.assert_close(batch.rollout_logp[:, :2], torch.full((2, 2), -0.5))
    sampler.sleep()
    with pytest.raises(RuntimeError, match="sleeps until its weights are loaded"):
        sampler.generate(*REQUEST)
    sampler.load(weights())
    sampler.generate(*REQUEST)
    assert sampler.llm.calls == [
        "reset_prefix_cache", "generate", "sleep 2", "wake weights", "reload_weights", "wake kv_cache",
        "reset_prefix_cache", "generate",
    ]  # fmt: skip
    assert torch.equal(sampler.llm.weights["w"], torch.ones(2))


def test_without_sleep_the_engine_stays_awake(make):
    sampler = make(sleep=False)
    assert not sampler.llm.arguments["enable_sleep_mode"]
    sampler.sleep()
    sampler.load(weights())
    sampler.generate(*REQUEST)
    assert sampler.llm.calls == ["reload_weights", "reset_prefix_cache", "generate"]


def test_what_the_engine_is_made_with(make):
    arguments = make(gpu_memory=0.6).llm.arguments
    assert (arguments["gpu_memory_utilization"], arguments["max_num_seqs"], arguments["max_model_len"]) == (0.6, 16, 64)
    assert arguments["enable_sleep_mode"]
    assert arguments["enable_chunked_prefill"]
    assert not arguments["enforce_eager"]
    assert arguments["logprobs_mode"] == "raw_logprobs"


def test_logits_are_divided_by_the_temperature_of_the_last_request(make):
    sampler = make()
    logits = torch.tensor([1.0, 2.0])
    assert torch.equal(sampler.llm.model.compute_logits(logits), logits)
    sampler.generate(*REQUEST)
    assert torch.equal(sampler.llm.model.compute_logits(logits), logits / 0.5)


def test_the_trainer_keeps_its_threads(make):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        make()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_closing_ends_the_engine_once(make):
    sampler = make()
    engine = sampler.llm
    sampler.close()
    sampler.close()
    assert engine.calls == ["shutdown"]


@pytest.mark.parametrize(
    ("dtype", "head", "wanted"),
    [
        ("bfloat16", "float32", {"head_dtype": "float32"}),
        ("float16", "float32", {"head_dtype": "float32"}),
        ("bfloat16", "model", None),
        ("float32", "float32", None),
    ],
)
def test_a_float32_head_is_asked_for_where_the_model_has_another(make, dtype, head, wanted):
    assert make(dtype=dtype, head_dtype=head).llm.arguments["hf_overrides"] == wanted


def test_on_a_cpu_a_float32_head_is_refused(make, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"head_dtype='float32' with dtype='bfloat16' and rollout='vllm' needs a GPU"):
        make(dtype="bfloat16", head_dtype="float32")


class TestBatchInvariance:
    @pytest.fixture(autouse=True)
    def _card(self, monkeypatch):
        monkeypatch.delenv("VLLM_BATCH_INVARIANT", raising=False)
        monkeypatch.setattr(os, "environ", dict(os.environ))
        monkeypatch.setattr(vllm, "_version", lambda: "0.32.0")

    def test_it_is_set_before_vllm_is_imported_or_refused(self, make, monkeypatch):
        imported = sys.modules["vllm"]
        with pytest.raises(ConfigError, match=r"has imported vLLM without it already; start another process"):
            make(batch_invariant=True)
        monkeypatch.delitem(sys.modules, "vllm")
        finder = SimpleNamespace(find_spec=lambda name, *_: spec_of(imported) if name == "vllm" else None)
        monkeypatch.setattr(sys, "meta_path", [finder, *sys.meta_path])
        sampler = make(batch_invariant=True)
        assert imported.seen == "1"
        assert sampler.llm is not None
        make(batch_invariant=True)  # the next engine of this process

    def test_what_nobody_asked_for_is_not_set(self, make):
        make()
        assert "VLLM_BATCH_INVARIANT" not in os.environ

    @pytest.mark.parametrize(("capability", "fits"), [((9, 0), True), ((8, 0), True), ((7, 5), False)])
    def test_an_older_card_is_refused_before_anything_is_read(self, make, monkeypatch, capability, fits):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        config = configs.load("tiny", rollout="vllm", vllm={"batch_invariant": True})
        if fits:
            vllm.require(config)
        else:
            with pytest.raises(ConfigError, match=r"compute capability 8\.0 or higher"):
                vllm.require(config)


def spec_of(module):
    """A spec whose import gives `module`, and notes what the environment said by then."""

    def execute(_):
        module.seen = os.environ.get("VLLM_BATCH_INVARIANT")

    loader = SimpleNamespace(create_module=lambda _: module, exec_module=execute)
    return ModuleSpec("vllm", loader, is_package=True)
