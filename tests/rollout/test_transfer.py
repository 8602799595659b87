"""How weights reach a sampler in another process; at the receiving end of GPUs, a strict stand-in for vLLM's engine."""

import os

import pytest
import torch
import vllm_stub

from dgpo import config as configs
from dgpo import room
from dgpo.rollout import SamplerError, transfer
from dgpo.rollout.vllm import VLLMSampler

WEIGHTS = {
    "wide": torch.arange(6.0).view(2, 3).bfloat16(),
    "turned": torch.arange(6.0).view(2, 3).T,  # not contiguous
    "larger": torch.arange(20).float(),
}


@pytest.fixture
def config():
    return configs.load("tiny", rollout="vllm", asynchronous=True, sampler_ranks=1)


@pytest.fixture
def gpu(monkeypatch):
    """A machine that says it has a GPU, with the stand-in for vLLM; torch's memory stays where it is."""
    vllm_stub.install(monkeypatch)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    stream = type("Stream", (), {"synchronize": lambda _: None})()
    card = type("Card", (), {"uuid": "GPU-1"})()
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(transfer, "_BINDING", 0.01)
    monkeypatch.setattr(vllm_stub.Nccl, "made", {})

    def export(tensor):
        vllm_stub.EXPORTED[tensor.data_ptr()] = tensor
        return None, tensor.data_ptr()

    monkeypatch.setattr(transfer.reductions, "reduce_tensor", export)


@pytest.fixture
def made(gpu, config, checkpoint):
    def made(way):
        """A sampler that `way` connects to, and a function that sends it weights one by one."""
        sampler = VLLMSampler(config, str(checkpoint), pad=0, stop=[1], length=64, backend=way.backend)
        way.connect(lambda told: sampler.connect(told["connect"]), lambda: None, 10.0)

        def describe():
            for name, tensor in WEIGHTS.items():
                told = way.describe(name, tensor)
                way.hand_over(tensor)
                yield told

        return sampler, lambda: sampler.receive(describe())

    return made


def received(sampler):
    return all(torch.equal(sampler.llm.weights[name], tensor) for name, tensor in WEIGHTS.items())


def test_on_a_gpu_of_its_own_an_engine_gets_broadcasts(made):
    way = transfer.Nccl()
    sampler, load = made(way)
    load()
    assert received(sampler)
    assert way.group.sent == []
    assert sampler.llm.calls == ["connect nccl", "finish_weight_update"]


def test_on_the_same_gpu_it_copies_out_of_one_buffer(made):
    way = transfer.Ipc()
    sampler, load = made(way)
    load()
    load()
    assert received(sampler)
    assert sampler.llm.calls == ["connect ipc", *["finish_weight_update"] * 2]
    assert len(way._buffer) == 80


def test_which_way_is_taken(config, monkeypatch):
    assert type(transfer.choose(config, None)) is transfer.Memory  # no GPU
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert type(transfer.choose(config, 1)) is transfer.Nccl
    assert type(transfer.choose(config, None)) is transfer.Ipc
    embedded = config.model_copy(update={"rollout": "transformers"})
    assert type(transfer.choose(embedded, 1)) is transfer.Memory


@pytest.mark.usefixtures("gpu")
def test_ports_that_are_taken_are_tried_in_turn_and_not_for_ever(monkeypatch):
    def taken(_):
        raise OSError(98, "Address already in use")

    way = transfer.Nccl()
    monkeypatch.setattr(way, "_open", taken)
    with pytest.raises(SamplerError, match=r"^no port on 127\.0\.0\.1 for the weights of the sampler: 5 were taken$"):
        way.connect(lambda _: pytest.fail("the sampler is told"), lambda: None, 10.0)


def test_memory_that_two_processes_share_on_a_gpu_does_not_grow(config, monkeypatch):
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    room.use_expandable_segments(config.model_copy(update={"sampler_ranks": 0}))
    assert "PYTORCH_CUDA_ALLOC_CONF" not in os.environ
    room.use_expandable_segments(config)
    assert os.environ["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
