"""One GPU, one table: python -m benchmarks.gpu (--tiny runs every part on a CPU)

A Qwen2 of the shape of R1-Distill-Qwen-1.5B with random weights in bfloat16: updates with micro-batches of 8k and 16k
tokens, with and without recomputed layers; the pass for old log-probabilities; token log-probabilities alone, naive, in
chunks and with Liger; a checkpoint; decoding by the embedded sampler. Beside each stands what `dgpo.plan` predicts with
its default rates. MFU counts 6 FLOPs a weight and token and the pairs of the attention, nothing twice.

DeepSpeed makes the updates where it is installed; else torch's AdamW on float32 copies does, and the table says so.
"""

import argparse
import importlib.util
import multiprocessing
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn import functional as F
from transformers import Qwen2ForCausalLM

from dgpo import config as configs
from dgpo import plan
from dgpo.batch import Batch
from dgpo.model import tiny
from dgpo.model.logprobs import token_logprobs
from dgpo.model.policy import Policy, recompute_layers
from dgpo.rollout import Sampling, TransformersSampler

HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
MODEL = {"task": "math", "data": "none", "model": "DeepSeek-R1-Distill-Qwen-1.5B", "dtype": "bfloat16"}
WORK = {"prompts": 8, "completions": 2, "max_prompt_tokens": 1024, "max_new_tokens": 3840, "device": "cuda"}
TINY = {"prompts": 4, "completions": 2, "max_prompt_tokens": 64, "max_new_tokens": 24, "device": "cpu"}


def row(part: str, quantity: str, measured: float | str, predicted: float | None = None) -> None:
    """A line of the table, printed when it is known."""
    said = measured if isinstance(measured, str) else f"{measured:.4g}"
    print(f"| {part} | {quantity} | {said} | {'' if predicted is None else f'{predicted:.4g}'} |", flush=True)


def settings(is_tiny: bool, **overrides) -> configs.Config:
    sizes = TINY if is_tiny else MODEL | WORK
    return configs.make({**sizes, "updates": 1, "kl_to_start": False, "rollout_rows": 64, **overrides})


def build(config: configs.Config) -> Policy:
    """The policy of the config's shape, random weights on its device."""
    torch.manual_seed(0)
    if config.model == "tiny":
        lm = tiny.build(config.tiny)
    else:
        with torch.device(config.device):
            lm = Qwen2ForCausalLM(plan.known(config.model))
    lm = lm.to(config.device, getattr(torch, config.dtype)).eval()
    if config.gradient_checkpointing:
        recompute_layers(lm)
    return Policy(lm, right_padded=True)


def batch_of(config: configs.Config, words: int) -> Batch:
    """As many sequences as a step has, each a quarter of the longest prompt and the longest completion."""
    B, P, T = config.batch_size, config.max_prompt_tokens // 4, config.max_new_tokens
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(B, T, dtype=torch.bool)
    return Batch(
        tokens=torch.randint(2, words, (B, P + T), generator=generator),
        attention=torch.ones(B, P + T, dtype=torch.bool),
        mask=mask,
        rollout_logp=torch.zeros(B, T),
        finished=torch.ones(B, dtype=torch.bool),
        row=torch.arange(B),
        advantage=torch.randn(B, 1, generator=generator),
        coefficient=mask / mask.sum(),
    )


class PlainEngine:
    """What the engine does, without DeepSpeed: AdamW on float32 copies of the weights."""

    def __init__(self, policy: Policy):
        self.policy = policy
        self.master = [p.detach().float().clone().requires_grad_() for p in policy.parameters()]
        self.optimizer = torch.optim.AdamW(self.master, lr=1e-6)

    def __call__(self, batch):
        return self.policy(batch)

    def update(self, losses, count):
        for loss in losses:
            loss.backward()
        for weight, master in zip(self.policy.parameters(), self.master, strict=True):
            master.grad, weight.grad = weight.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.master, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            for weight, master in zip(self.policy.parameters(), self.master, strict=True):
                weight.copy_(master)


def make_engine(policy: Policy, config: configs.Config):
    if not HAS_DEEPSPEED:
        return PlainEngine(policy)
    from dgpo.distributed import process_group
    from dgpo.engine import Engine

    process_group.init(config.device, config.timeout)
    return Engine(policy, config)


def seconds(run: Callable[[], object], repeats: int = 3, warm: int = 1) -> float:
    """Median wall seconds of `run` after `warm` runs that do not count."""
    times = []
    for _ in range(warm + repeats):
        _synchronize()
        start = time.perf_counter()
        run()
        _synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[warm:])


def updates(is_tiny: bool, budget: int, again: bool, more: bool) -> None:
    """Throughput, MFU and memory of updates; with `more`, the log-probability pass and a checkpoint as well."""
    config = settings(is_tiny, micro_tokens=budget, gradient_checkpointing=again)
    part = f"update, {budget} tokens a micro-batch{', recomputed layers' if again else ''}"
    policy = build(config)
    batch = batch_of(config, policy.lm.config.vocab_size)
    engine = make_engine(policy, config)
    micros = [m.to(config.device) for m in batch.split(config.micro_batch, budget)]
    known = plan.predict(config, length=config.max_new_tokens)

    def losses():
        for micro in micros:
            yield (micro.coefficient * -micro.advantage * engine(micro)[0]).sum()

    try:
        took = seconds(lambda: engine.update(losses(), len(micros)))
    except torch.OutOfMemoryError:
        row(part, "peak memory, GB", "out of memory", peak_of(known) / 1e9)
        return
    predicted = known.seconds["update"] + known.seconds["optimizer step"]
    tokens = int(batch.attention.sum())
    row(part, "tokens/s", tokens / took, tokens / predicted)
    pairs = int(batch.attention.sum(1).square().sum()) / 2
    flops = 3 * known.shape.forward_flops(tokens, pairs, int(batch.mask.sum()))
    rate = known.hardware.flops
    row(part, "MFU", flops / took / rate, flops / predicted / rate)
    if not is_tiny:
        peak = torch.cuda.max_memory_allocated() / 1e9
        row(part, "peak memory, GB", peak, peak_of(known) / 1e9)
    if more:
        old_logp(policy, micros, known)
        checkpoint(engine, policy)


def peak_of(known: plan.Plan) -> float:
    """Predicted bytes at the peak of an update and its optimizer step, which are measured together."""
    return max(sum(known.memory[phase].values()) for phase in ("update", "optimizer step"))


def old_logp(policy: Policy, micros: list[Batch], known: plan.Plan) -> None:
    def run():
        with torch.no_grad():
            for micro in micros:
                policy(micro, with_entropy=True)

    row("old_logp", "seconds", seconds(run), known.seconds["old_logp"])


def checkpoint(engine, policy: Policy) -> None:
    """Save and load by the engine, or, without DeepSpeed, the weights alone."""
    folder = Path(tempfile.mkdtemp())
    try:
        if HAS_DEEPSPEED:
            save, load = lambda: engine.save(folder), lambda: engine.load(folder, 1)
            what = "weights and optimizer"
        else:
            what = "weights alone (no DeepSpeed)"
            save, load = lambda: policy.lm.save_pretrained(folder), lambda: type(policy.lm).from_pretrained(folder)
        row("checkpoint", f"seconds to save, {what}", seconds(save, 1, warm=0))
        row("checkpoint", "GB", sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e9)
        row("checkpoint", "seconds to load", seconds(load, 1, warm=0))
    finally:
        shutil.rmtree(folder)


def logprobs(is_tiny: bool) -> None:
    """Token log-probabilities with their gradients: the whole matrix, chunks, Liger's fused kernel."""
    device, dtype = ("cpu", torch.float32) if is_tiny else ("cuda", torch.bfloat16)
    N, V, H = (32, 101, 16) if is_tiny else (8192, 151_936, 1536)
    hidden = torch.randn(N, H, device=device, dtype=dtype).requires_grad_()
    weight = (torch.randn(V, H, device=device, dtype=dtype) / H**0.5).requires_grad_()
    targets = torch.randint(V, (N,), device=device)
    kinds = {
        "naive": lambda: F.linear(hidden, weight).float().log_softmax(-1).gather(1, targets[:, None]),
        "chunked": lambda: token_logprobs(hidden, weight, targets)[0],
    }
    if not is_tiny and importlib.util.find_spec("liger_kernel") is not None:
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

        kinds["Liger"] = lambda: -LigerFusedLinearCrossEntropyLoss(reduction="none")(weight, hidden, targets)
    else:
        row("log-probabilities, Liger", "seconds", "not installed or no GPU")
    for name, logp in kinds.items():
        with _emptied():
            before = 0 if is_tiny else torch.cuda.memory_allocated()
            took = seconds(lambda logp=logp: torch.autograd.grad(logp().sum(), (hidden, weight)))
            row(f"log-probabilities, {name}, {N} × {V}", "seconds", took)
            if not is_tiny:
                peak = (torch.cuda.max_memory_allocated() - before) / 1e9
                row(f"log-probabilities, {name}, {N} × {V}", "peak memory, GB", peak)


def decode(is_tiny: bool) -> None:
    """The embedded sampler against the time that its bytes need at the memory's full rate."""
    for rows in (4, 8) if is_tiny else (16, 64, 256):
        sizes = {"max_prompt_tokens": 64, "max_new_tokens": 16 if is_tiny else 128, "completions": 1}
        config = settings(is_tiny, **sizes, prompts=rows, rollout_rows=rows)
        with _emptied():
            policy = build(config)
            policy.lm.generation_config.eos_token_id = None
            sampler = TransformersSampler(policy, _NoTokenizer(), rows)
            sampler.stop = [policy.lm.config.vocab_size]  # nothing stops
            prompts = [[5 + i % 10] * config.max_prompt_tokens for i in range(rows)]
            sampling = Sampling(config.max_new_tokens, 1.0)
            took = seconds(lambda s=sampler, p=prompts, k=sampling: s.generate(p, list(range(len(p))), k), 1)
            known = plan.predict(config, length=config.max_new_tokens)
            part, tokens = f"decoding, {rows} sequences", rows * config.max_new_tokens
            row(part, "tokens/s", tokens / took, tokens / known.seconds["decode"])
            work = plan.Work(config, known.shape, 1, config.max_new_tokens, known.hardware)
            context = config.max_prompt_tokens + config.max_new_tokens / 2
            read = config.max_new_tokens * (work.weight_bytes + rows * context * work.kv_bytes)
            row(part, "share of the memory's rate", read / took / known.hardware.bandwidth)


def apart(function: Callable, *args) -> None:
    """Call it in a process of its own: DeepSpeed keeps an engine's memory for as long as its process lives."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=args)
    process.start()
    process.join()
    if process.exitcode:
        row(function.__name__, "failed", f"exit code {process.exitcode}")


class _NoTokenizer:
    pad_token_id, eos_token_id = 1, 0


@contextmanager
def _emptied():
    """Give back what the part before held, and count peaks afresh."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    yield


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def main(argv: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="every part at a small scale, on a CPU")
    is_tiny = parser.parse_args(argv).tiny
    if not is_tiny and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --tiny runs every part at a small scale on a CPU")
    where = "CPU" if is_tiny else torch.cuda.get_device_name()
    engine = "DeepSpeed" if HAS_DEEPSPEED else "torch's AdamW, no DeepSpeed"
    print(f"{where}, torch {torch.__version__}, updates by {engine}\n")
    print("| part | quantity | measured | plan |\n|---|---|---|---|", flush=True)
    budgets = (96, 192) if is_tiny else (8192, 16384)
    rows = [(is_tiny, budget, again) for again in (False, True) for budget in budgets]
    parts = [(updates, *args, args is rows[-1]) for args in rows]
    for function, *args in (*parts, (logprobs, is_tiny), (decode, is_tiny)):
        function(*args) if is_tiny else apart(function, *args)


if __name__ == "__main__":
    main()
