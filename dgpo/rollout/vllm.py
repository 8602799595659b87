"""The vLLM sampler: an engine in the training process, beside the trainer's own copy of the weights.

Every rank has an engine of its own, or shares one with `tensor_parallel` neighbours. It starts after DeepSpeed: vLLM
adopts an existing process group, while DeepSpeed would take vLLM's world of one for the whole world.

What is returned is log softmax(logits / T) over all words. vLLM's own `processed_logprobs` are renormalised under top-p
and its `raw_logprobs` know no temperature; so logits are divided by T inside the model, and sampling is at 1.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false
# (vLLM is an extra, and need not be installed where types are checked)

import gc
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dgpo.batch import Rollout
from dgpo.config import ConfigError
from dgpo.distributed import process_group
from dgpo.errors import first_line
from dgpo.model.loading import load_shape
from dgpo.rollout.base import Sampler, Sampling

_OLDEST = (0, 27)  # reload_weights takes an iterator
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")  # as architectures name them
_INSTALL = "on GPUs pip install -e '.[gpu]', on a CPU as the README says"


def require(config) -> None:
    """Raise ConfigError unless a vLLM that serves is installed and the ranks can form its tensor-parallel groups."""
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(f"rollout='vllm' needs the package vllm: {_INSTALL}")
    version = _version()
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise ConfigError(f"rollout='vllm' needs vllm {oldest} or newer, here is {version}: {_INSTALL}")
    if config.vllm.batch_invariant and (
        not torch.cuda.is_available() or torch.version.hip or torch.cuda.get_device_capability() < (8, 0)
    ):
        raise ConfigError("vllm.batch_invariant=True needs an NVIDIA GPU of compute capability 8.0 or higher")
    if process_group.world_size() % config.vllm.tensor_parallel:
        raise ConfigError(
            f"vllm.tensor_parallel={config.vllm.tensor_parallel} must divide the number of ranks, which is "
            f"{process_group.world_size()}: an engine is spread over ranks, each with a device of its own"
        )


class VLLMSampler(Sampler):
    """At most `config.generation_batch_size` sequences of at most `length` tokens, prompt included, at once.

    Weights come by `load`, or with a `backend` of vLLM's weight transfer by `connect` and `receive`.
    On a CPU the KV cache is as large as vLLM's own variable VLLM_CPU_KVCACHE_SPACE says, 1 GiB by default. On a GPU it
    and the weights take `vllm.gpu_memory` of the device, and with `vllm.sleep` none of it from `sleep` to `load`.
    """

    def __init__(self, config, source: str, pad: int, stop: list[int], length: int, backend: str | None = None):
        self.llm: Any  # vLLM is an extra; None once closed
        self.pad, self.stop, self.on_cpu = pad, stop, not torch.cuda.is_available()
        self._sleeps, self._asleep = config.vllm.sleep and not self.on_cpu, False
        self._temperature = 1.0
        shape = load_shape(source, config.trust_remote_code)
        if any(getattr(shape, name, None) for name in _EXPERTS):  # on a CPU the old ones stay, and nothing says so
            raise ConfigError(
                f"rollout='vllm', model={str(source)!r}: a mixture of experts, whose weights do not all reach the "
                "engine; rollout='transformers' samples it"
            )
        is_wide = config.head_dtype == "float32" and config.dtype != "float32"
        if is_wide and self.on_cpu:
            raise ConfigError(
                f"head_dtype='float32' with dtype={config.dtype!r} and rollout='vllm' needs a GPU: on a CPU vLLM packs "
                "the weights of that layer; use rollout='transformers'"
            )
        if config.vllm.batch_invariant:
            _make_batch_invariant()
        transfers = {"weight_transfer_config": {"backend": backend}} if backend else {}
        if backend == "ipc":
            os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # it unpickles what our own trainer sends
        with _environment(self.on_cpu), _in_a_line(str(source)):
            from vllm import LLM, SamplingParams
            from vllm.v1.engine import core

            if dist.is_initialized():  # by the trainer: an engine that ends would end the process group too
                core.cleanup_dist_env_and_memory = lambda: None
            self._params, threads = SamplingParams, torch.get_num_threads()
            self.llm = LLM(
                str(source),
                dtype=config.dtype,
                max_model_len=length,
                max_num_seqs=config.generation_batch_size,
                gpu_memory_utilization=config.vllm.share,
                tensor_parallel_size=config.vllm.tensor_parallel,
                distributed_executor_backend="external_launcher" if process_group.world_size() > 1 else None,
                enable_sleep_mode=self._sleeps,
                enforce_eager=self.on_cpu,
                enable_chunked_prefill=not self.on_cpu,  # a seeded request cannot be cut in two on a CPU
                logprobs_mode="raw_logprobs",
                generation_config="vllm",  # else top-p and the like of the checkpoint are taken over
                skip_tokenizer_init=True,
                use_tqdm_on_load=False,
                trust_remote_code=config.trust_remote_code,
                hf_overrides={"head_dtype": "float32"} if is_wide else None,
                **transfers,
            )
            torch.set_num_threads(threads)  # from 0.32 on vLLM leaves the trainer one
        self._check_model(str(source))
        self.llm.apply_model(self._scale_logits)

    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> Rollout:
        if self._asleep:
            raise RuntimeError("the sampler sleeps until its weights are loaded")
        # A cache of older weights would be wrong; one of earlier calls would make a completion depend on them.
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache: requests are still running")
        self._temperature = sampling.temperature
        params = [
            self._params(
                temperature=1.0,
                top_p=sampling.top_p,
                seed=seed,
                max_tokens=sampling.max_new_tokens,
                stop_token_ids=self.stop,
                logprobs=0,  # of the sampled token alone
                flat_logprobs=True,  # lists, not a dictionary and an object a token
                detokenize=False,
            )
            for seed in seeds
        ]
        requests, own = self._with_neighbours([{"prompt_token_ids": p} for p in prompts], params)
        outputs = self.llm.generate(*requests, use_tqdm=False)[own]
        return self._batch(prompts, [output.outputs[0] for output in outputs])

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        if self._asleep:
            self.llm.wake_up(tags=["weights"])
        # vLLM keeps what it is given until a fused layer is complete; a gathered parameter is gone by then: clone
        copies = ((name, tensor.detach().clone()) for name, tensor in weights)
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": copies})
        if self.on_cpu:
            self.llm.apply_model(_repack_head)
        if self._asleep:
            self.llm.wake_up(tags=["kv_cache"])
            self._asleep = False

    def connect(self, told: dict) -> None:
        """Meet the sender of weights, as the engine of the backend asks to be told."""
        self.llm.init_weight_transfer_engine({"init_info": told})

    def receive(self, described: Iterable[dict]) -> None:
        """Load weights by the backend's engine; each description is drawn as its tensor can be received."""
        self.llm.start_weight_update()
        for update in described:
            self.llm.update_weights({"update_info": update})
        self.llm.finish_weight_update()
        if self.on_cpu:
            self.llm.apply_model(_repack_head)

    def sleep(self) -> None:
        if self._sleeps:
            self.llm.sleep(level=2)
            self._asleep = True

    def close(self) -> None:
        """vLLM keeps what an engine made, 1 GiB of KV cache on a CPU, from garbage collection until it is shut down."""
        if self.llm is not None:
            self.llm.llm_engine.engine_core.shutdown()
            self.llm = None
            gc.collect()
            if not self.on_cpu:
                torch.cuda.empty_cache()  # vLLM's own clean-up, which does it, would end the trainer's process group

    def _with_neighbours(self, prompts, params):
        """The requests of all ranks of this engine, which each of them has to make, and which are this rank's."""
        from vllm.distributed import get_tp_group

        group = get_tp_group()
        if group.world_size == 1:
            return (prompts, params), slice(None)
        parts = [None] * group.world_size
        dist.all_gather_object(parts, (prompts, params), group=group.cpu_group)
        start = sum(len(part[0]) for part in parts[: group.rank_in_group])
        everything = [[x for column in columns for x in column] for columns in zip(*parts, strict=True)]
        return everything, slice(start, start + len(prompts))

    def _batch(self, prompts, completions) -> Rollout:
        B, P, T = len(prompts), max(map(len, prompts)), max(len(c.token_ids) for c in completions)
        tokens = torch.full((B, P + T), self.pad)
        attention, logp = torch.zeros(B, P + T, dtype=torch.bool), torch.zeros(B, T)
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            ids = list(completion.token_ids)
            end = P + len(ids)
            tokens[i, P - len(prompt) : end] = torch.tensor(prompt + ids)
            attention[i, P - len(prompt) : end] = True
            flat = completion.logprobs
            logp[i, : len(ids)] = torch.tensor([flat.logprobs[first] for first in flat.start_indices])
        return Rollout(
            input_ids=tokens,
            attention_mask=attention,
            mask=attention[:, P:].clone(),
            rollout_logp=logp,
            finished=torch.tensor([c.finish_reason == "stop" for c in completions]),
            sequence_id=torch.arange(B),
        )

    def _scale_logits(self, model) -> None:
        for name in ("compute_logits", "compute_logits_local"):
            if hasattr(model, name):
                setattr(model, name, self._scaled(getattr(model, name)))

    def _scaled(self, compute):
        def scaled(*args, **kwargs):
            logits = compute(*args, **kwargs)
            return logits if logits is None or self._temperature == 1 else logits.float() / self._temperature

        return scaled

    def _check_model(self, source: str) -> None:
        """Refuse what this engine would sample wrongly, or break in the trainer."""
        from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

        model, fault = self.llm.llm_engine.model_config, None
        size, sizes = model.get_head_size(), CPUAttentionBackend.get_supported_head_sizes()
        if self.on_cpu and size not in sizes:
            fault = (
                f"its attention heads have {size} dimensions; on a CPU vLLM computes those of "
                f"{', '.join(map(str, sizes))} (for model='tiny', tiny.hidden / tiny.heads)"
            )
        elif model.using_transformers_backend():  # which changes the class of the trainer's model in this process
            fault = "vLLM has no model of its own for it; rollout='transformers' samples it"
        if fault:
            self.close()
            raise ConfigError(f"rollout='vllm', model={source!r}: {fault}")


def _repack_head(model) -> None:
    """On a CPU the output layer holds a packed copy; with tied embeddings `reload_weights` does not update it."""
    head = model.lm_head
    head.quant_method.process_weights_after_loading(head)


def _make_batch_invariant() -> None:
    """Set vLLM's variable, which its modules read as they are imported. Raises ConfigError if they have been."""
    if "vllm" in sys.modules and os.environ.get("VLLM_BATCH_INVARIANT") != "1":
        raise ConfigError(
            "vllm.batch_invariant=True: this process has imported vLLM without it already; start another process"
        )
    os.environ["VLLM_BATCH_INVARIANT"] = "1"


def _version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise ConfigError(f"rollout='vllm': the package vllm has no version that pip knows: {_INSTALL}")


@contextmanager
def _in_a_line(model: str):
    """Name the model where vLLM refuses it, or its share of the memory."""
    try:
        yield
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"rollout='vllm', model={model!r}: {first_line(error)}") from error


@contextmanager
def _environment(on_cpu: bool):
    """What vLLM reads when it starts; what it then writes for its own children is taken back."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process: it takes our tensors as they are
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    if on_cpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
        torch._dynamo.config.disable = True  # compiling takes 50 s and gains nothing here
    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "LOCAL_WORLD_SIZE")}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
