"""The parts of `benchmarks.gpu` that sample: the embedded sampler, one in a process of its own, vLLM's engine."""

import importlib.util
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu_parts import build, card, save_model, settings
from benchmarks.gpu_table import emptied, row, seconds
from dgpo import plan
from dgpo.config import Config
from dgpo.model.policy import Policy
from dgpo.rollout import Sampling, TransformersSampler


def decode(is_tiny: bool) -> None:
    """The embedded sampler against the time that its bytes need at the memory's full rate."""
    for rows in (4, 8) if is_tiny else (64, 256):
        sizes = {"max_prompt_tokens": 64, "max_new_tokens": 16 if is_tiny else 64, "group_size": 1}
        config = settings(is_tiny, **sizes, prompts_per_step=rows, generation_batch_size=rows)
        with emptied():
            policy = build(config)
            policy.lm.generation_config.eos_token_id = None
            sampler = TransformersSampler(policy, _NoTokenizer(), rows)
            sampler.stop = [policy.lm.config.vocab_size]  # nothing stops
            prompts = [[5 + i % 10] * config.max_prompt_tokens for i in range(rows)]
            sampling = Sampling(config.max_new_tokens, 1.0)
            took = seconds(lambda s=sampler, p=prompts, k=sampling: s.generate(p, list(range(len(p))), k), 1)
            known = plan.predict(config, length=config.max_new_tokens, hardware=card())
            part, tokens = f"decoding, {rows} sequences", rows * config.max_new_tokens
            row(part, "tokens/s", tokens / took, tokens / known.seconds["decode"])
            work = plan.Work(config, known.shape, 1, config.max_new_tokens, known.hardware)
            context = config.max_prompt_tokens + config.max_new_tokens / 2
            read = config.max_new_tokens * (work.weight_bytes + rows * context * work.kv_bytes)
            row(part, "share of the memory's rate", read / took / known.hardware.bandwidth)


def background(is_tiny: bool) -> None:
    """The sampler in a process of its own on the same GPU: how fast it takes new weights, through shared memory."""
    from dgpo.rollout.background import BackgroundSampler

    with tempfile.TemporaryDirectory() as name:
        config, policy = on_disk(is_tiny, Path(name), asynchronous=True)
        sampler = BackgroundSampler(config, config.model, 0, [1], config.max_prompt_tokens + config.max_new_tokens)
        try:
            size = sum(p.numel() * p.element_size() for p in policy.lm.parameters())
            took = seconds(lambda: sampler.load(policy.lm.named_parameters()), 2)
            row("sampler's process", f"GB/s of {size / 1e9:.3g} GB of weights", size / took / 1e9)
            check(sampler, policy, config, "sampler's process")
        finally:
            sampler.close()


def engine(is_tiny: bool) -> None:
    """vLLM in this process, beside the policy: sample, sleep, load, wake; the distance of log π before and after."""
    if importlib.util.find_spec("vllm") is None:
        row("vLLM", "seconds", "not installed here")
        return
    from dgpo.rollout.vllm import VLLMSampler

    with tempfile.TemporaryDirectory() as name:
        config, policy = on_disk(is_tiny, Path(name), rollout="vllm", vllm={"gpu_memory": 0.5})
        start = time.perf_counter()
        sampler = VLLMSampler(config, config.model, 0, [1], config.max_prompt_tokens + config.max_new_tokens)
        row("vLLM", "seconds to start", time.perf_counter() - start)
        try:
            check(sampler, policy, config, "vLLM, weights from disk")
            before = 0 if is_tiny else torch.cuda.mem_get_info()[0]
            row("vLLM", "seconds to sleep", seconds(sampler.sleep, 1, warm=0))
            if not is_tiny:
                row("vLLM", "GB freed by sleep", (torch.cuda.mem_get_info()[0] - before) / 1e9)
            with torch.no_grad():  # so that what was on disk would be noticed
                policy.head.weight.mul_(1.5)
            row("vLLM", "seconds to load and wake", seconds(lambda: sampler.load(policy.lm.named_parameters()), 1, 0))
            check(sampler, policy, config, "vLLM, weights loaded")
        finally:
            sampler.close()


def on_disk(is_tiny: bool, folder: Path, **overrides) -> tuple[Config, Policy]:
    """A policy with random weights, and the config of a run whose model is that policy, in `folder`."""
    sizes = {"max_prompt_tokens": 64, "max_new_tokens": 16 if is_tiny else 256}
    policy = build(settings(is_tiny, **sizes))
    save_model(policy, folder)
    return settings(is_tiny, **sizes, task="math", data="none", model=str(folder), **overrides), policy


def check(sampler, policy: Policy, config: Config, part: str) -> None:
    """Rows of a sampler's speed, and of how far its log π is from the policy's."""
    rows = 8 if config.device == "cpu" else 64
    prompts, sampling = [[5 + i % 10] * 8 for i in range(rows)], Sampling(config.max_new_tokens, 1.0)
    start = time.perf_counter()
    batch = sampler.generate(prompts, list(range(rows)), sampling)
    row(part, f"tokens/s, {rows} sequences", int(batch.mask.sum()) / (time.perf_counter() - start))
    with torch.no_grad():
        off = (policy(batch.to(config.device))[0].cpu() - batch.rollout_logp)[batch.mask].abs()
    row(part, "|Δ log π|: mean, largest", f"{off.mean():.2g}, {off.max():.2g}")


class _NoTokenizer:
    pad_token_id, eos_token_id = 1, 0
