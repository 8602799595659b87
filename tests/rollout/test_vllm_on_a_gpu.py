"""The branches of the vLLM sampler that only a GPU takes, on a strict stand-in for the engine."""

import pytest
import torch
import vllm_stub

from dgpo import config as configs
from dgpo.rollout import Sampling
from dgpo.rollout.vllm import VLLMSampler

REQUEST = [[3, 4], [5, 6, 7]], [1, 2], Sampling(8, temperature=0.5)


@pytest.fixture
def make(monkeypatch, checkpoint):
    vllm_stub.install(monkeypatch)

    def make(**vllm):
        config = configs.load("tiny", rollout="vllm", vllm=vllm, generation_batch_size=16)
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
