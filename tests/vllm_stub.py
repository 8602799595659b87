"""A strict stand-in for vLLM's engine on a GPU: it takes the arguments of vLLM 0.27 to 0.33 and no others.

Sleep and wake as the real engine has them: level 2 drops weights and KV cache; `reload_weights` needs the weights
awake, `generate` needs both, and weights that were loaded since. An argument that is not listed here fails its test:
look it up in `LLM`, `EngineArgs` and `SamplingParams` before you add it.
"""

import base64
import os
import pickle
import sys
import threading
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import torch


class SamplingParams:
    def __init__(
        self, *, temperature=1.0, top_p=1.0, seed=None, max_tokens=16, stop_token_ids=None, logprobs=None,
        detokenize=True, flat_logprobs=False,
    ):  # fmt: skip
        vars(self).update({k: v for k, v in locals().items() if k != "self"})


class LLM:
    """`calls` has everything that was asked of the engine, in order; `weights` is the last version loaded."""

    last: "LLM"  # made

    def __init__(
        self, model, *, dtype, max_model_len, max_num_seqs, gpu_memory_utilization, tensor_parallel_size,
        distributed_executor_backend, enable_sleep_mode, enforce_eager, enable_chunked_prefill, logprobs_mode,
        generation_config, skip_tokenizer_init, use_tqdm_on_load, trust_remote_code,
        hf_overrides=None, weight_transfer_config=None,
    ):  # fmt: skip
        assert isinstance(model, str)
        assert 0 < gpu_memory_utilization < 1
        assert distributed_executor_backend in (None, "external_launcher")
        self.arguments = {k: v for k, v in locals().items() if k != "self"}
        LLM.last = self
        self.calls, self.weights, self._sleeps = [], "as on disk", enable_sleep_mode
        self._awake = {"weights", "kv_cache"}
        self._transfer, self._connected, self._update = (weight_transfer_config or {}).get("backend"), None, None
        assert weight_transfer_config in (None, {"backend": self._transfer})
        self.model = SimpleNamespace(compute_logits=lambda hidden: hidden)
        model_config = SimpleNamespace(get_head_size=lambda: 64, using_transformers_backend=lambda: False)
        core = SimpleNamespace(shutdown=lambda: self.calls.append("shutdown"))
        self.llm_engine = SimpleNamespace(model_config=model_config, engine_core=core)
        torch.set_num_threads(1)  # as vLLM does from 0.32 on

    def sleep(self, level: int = 1):
        assert self._sleeps, "the engine was made without enable_sleep_mode"
        assert self._awake == {"weights", "kv_cache"}, "it sleeps already"
        self._awake, self.weights = set(), None if level == 2 else self.weights
        self.calls.append(f"sleep {level}")

    def wake_up(self, tags: list[str] | None = None):
        assert not self._awake & set(tags or ()), f"{tags} are awake already"
        self._awake |= set(tags or ("weights", "kv_cache"))
        self.calls.append(f"wake {' '.join(tags or ['all'])}")

    def collective_rpc(self, method: str, timeout=None, args=(), kwargs=None):
        assert method == "reload_weights"
        assert "weights" in self._awake, "weights were loaded into an engine that sleeps"
        self.weights = {name: tensor.clone() for name, tensor in kwargs["weights_iterator"]}
        self.calls.append("reload_weights")

    def init_weight_transfer_engine(self, request: dict):
        assert self._transfer in ENGINES, "the engine was made without weight_transfer_config"
        assert set(request) == {"init_info"}
        self._connected = ENGINES[self._transfer](**request["init_info"])
        self.calls.append(f"connect {self._transfer}")

    def start_weight_update(self):
        assert self._connected, "before init_weight_transfer_engine"
        assert self._update is None, "an update is active"
        self._update = {}

    def update_weights(self, request: dict):
        assert self._update is not None, "before start_weight_update"
        assert set(request) == {"update_info"}
        self._update |= self._connected.receive(**request["update_info"])

    def finish_weight_update(self, weight_version: str | None = None):
        assert self._update is not None, "without start_weight_update"
        self.weights, self._update = self._update, None
        self.calls.append("finish_weight_update")

    def apply_model(self, func):
        return [func(self.model)]

    def reset_prefix_cache(self) -> bool:
        self.calls.append("reset_prefix_cache")
        return True

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        assert self._awake == {"weights", "kv_cache"}, "the engine sleeps"
        assert self.weights is not None, "no weights since a sleep of level 2"
        assert self.calls[-1] == "reset_prefix_cache", "the cache of older weights"
        self.calls.append("generate")
        return [self._answer(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params, strict=True)]

    def _answer(self, prompt, params):
        ids = [prompt[-1], params.stop_token_ids[0]][: params.max_tokens]
        assert params.flat_logprobs, "a dictionary and an object a token"
        # as vLLM's FlatLogprobs; at the second token the sampled one comes first, and then the likeliest
        probabilities = SimpleNamespace(start_indices=[0, 1], end_indices=[1, 3], logprobs=[-0.5, -0.5, -0.1])
        probabilities.token_ids = [ids[0], ids[-1], 0]
        reason = "stop" if ids[-1] in params.stop_token_ids else "length"
        return SimpleNamespace(outputs=[SimpleNamespace(token_ids=ids, logprobs=probabilities, finish_reason=reason)])


class Nccl:
    """The engine `nccl`; the trainer's communicator is `made[port]`, whose broadcasts it receives."""

    made: dict[int, "Communicator"] = {}

    def __init__(self, *, master_address, master_port, rank_offset, world_size):
        assert (master_address, rank_offset, world_size) == ("127.0.0.1", 1, 2)
        self.group = Nccl.made.setdefault(master_port, Communicator())
        self.group.met.set()

    def receive(self, *, names, dtype_names, shapes):
        assert len(names) == len(dtype_names) == len(shapes)
        found = {}
        for name, dtype, shape in zip(names, dtype_names, shapes, strict=True):
            sent = self.group.take()
            assert (list(sent.shape), sent.dtype, sent.is_contiguous()) == (shape, getattr(torch, dtype), True)
            found[name] = sent.clone()
        return found


class Communicator:
    def __init__(self):
        self.sent, self.met = [], threading.Event()

    def take(self):
        return self.sent.pop(0)

    def broadcast(self, tensor, src, stream=None):
        assert src == 0
        self.sent.append(tensor)


def trainer_init(init_info: dict) -> Communicator:
    assert init_info.keys() == {"master_address", "master_port", "world_size"}
    group = Nccl.made.setdefault(init_info["master_port"], Communicator())
    assert group.met.wait(60)
    return group


class Ipc:
    """The engine `ipc`. A handle, which torch makes of memory on a GPU, is the tensor itself here."""

    def __init__(self, *, packed=False):
        assert packed

    def receive(self, *, names, dtype_names, shapes, ipc_handles=None, ipc_handles_pickled=None, tensor_sizes=None):
        assert ipc_handles is None
        assert os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] == "1"
        (buffer,) = pickle.loads(base64.b64decode(ipc_handles_pickled)).values()
        found, start = {}, 0
        for name, dtype, shape, size in zip(names, dtype_names, shapes, tensor_sizes, strict=True):
            found[name] = EXPORTED[buffer][start : start + size].view(getattr(torch, dtype)).view(shape).clone()
            start += size
        return found


ENGINES, EXPORTED = {"nccl": Nccl, "ipc": Ipc}, {}


def install(monkeypatch) -> None:
    """Let `import vllm` find this engine, on a machine that says it has a GPU."""
    core = SimpleNamespace(cleanup_dist_env_and_memory=None)
    group = SimpleNamespace(world_size=1)
    heads = SimpleNamespace(get_supported_head_sizes=lambda: [])
    contents = {
        "vllm": {"LLM": LLM, "SamplingParams": SamplingParams},
        "vllm.v1": {}, "vllm.v1.engine": {"core": core}, "vllm.v1.attention": {}, "vllm.v1.attention.backends": {},
        "vllm.v1.attention.backends.cpu_attn": {"CPUAttentionBackend": heads},
        "vllm.distributed": {"get_tp_group": lambda: group},
        "vllm.distributed.weight_transfer": {},
        "vllm.distributed.weight_transfer.nccl_common": {"trainer_init": trainer_init},
    }  # fmt: skip
    for name, attributes in contents.items():
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
