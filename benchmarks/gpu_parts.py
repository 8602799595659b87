"""The parts of `benchmarks.gpu`: what each measures, beside what `dgpo.plan` predicts."""

import json
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from benchmarks.gpu_table import apart, row, seconds
from dgpo import cards, plan, shapes
from dgpo import config as configs
from dgpo.batch import Rollout, Weighted
from dgpo.distributed import process_group
from dgpo.engine import Engine
from dgpo.model.logprobs import token_logprobs
from dgpo.model.policy import Policy, recompute_layers
from dgpo.trainer import train

PROBLEMS = Path(plan.__file__).parent / "tasks/data/problems.jsonl"
MODEL = {"task": "math", "data": "none", "model": "DeepSeek-R1-Distill-Qwen-1.5B", "dtype": "bfloat16"}
WORK = {"prompts_per_step": 8, "group_size": 2, "max_prompt_tokens": 1024, "max_new_tokens": 3840, "device": "cuda"}
SMALL = Qwen2Config(
    vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=1,
)  # fmt: skip
TINY = {"prompts_per_step": 4, "group_size": 2, "max_prompt_tokens": 64, "max_new_tokens": 24, "device": "cpu"}


def card() -> cards.Hardware:
    """What `plan` knows of the GPU of this machine, by its name; an H100 if it knows none."""
    name = torch.cuda.get_device_name().lower() if torch.cuda.is_available() else ""
    return next((hardware for known, hardware in cards.CARDS.items() if known in name), cards.CARDS["h100"])


def settings(is_tiny: bool, **overrides) -> configs.Config:
    sizes = TINY if is_tiny else MODEL | WORK
    return configs.make(
        {**sizes, "num_minibatches": 1, "log_reference_kl": False, "generation_batch_size": 64, **overrides}
    )


def build(config: configs.Config) -> Policy:
    """The policy of the config's shape, random weights on its device."""
    torch.manual_seed(0)
    with torch.device(config.device):
        lm = Qwen2ForCausalLM(SMALL if config.model == "tiny" else shapes.known(config.model))
    lm = lm.to(config.device, getattr(torch, config.dtype)).eval()
    if config.gradient_checkpointing:
        recompute_layers(lm)
    return Policy(lm, right_padded=True)


def batch_of(config: configs.Config, words: int) -> Weighted:
    """As many sequences as a step has, each a quarter of the longest prompt and the longest completion."""
    B, P, T = config.batch_size, config.max_prompt_tokens // 4, config.max_new_tokens
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(B, T, dtype=torch.bool)
    return Weighted(
        input_ids=torch.randint(2, words, (B, P + T), generator=generator),
        attention_mask=torch.ones(B, P + T, dtype=torch.bool),
        mask=mask,
        rollout_logp=torch.zeros(B, T),
        finished=torch.ones(B, dtype=torch.bool),
        sequence_id=torch.arange(B),
        advantage=torch.randn(B, 1, generator=generator),
        old_logp=torch.zeros(B, T),
        entropy=torch.zeros(B, T),
        loss_weight=mask / mask.sum(),
    )


def make_engine(policy: Policy, config: configs.Config) -> Engine:
    process_group.init(config.device, config.timeout)
    return Engine(policy, config)


def runs(is_tiny: bool) -> None:
    """Every way to run the trainer, from its start to its end."""
    ways = {
        "ZeRO-1": {"zero_stage": 1},
        "ZeRO-2": {"zero_stage": 2},
        "ZeRO-3": {"zero_stage": 3},
        "ZeRO-2, optimizer offloaded": {"zero_stage": 2, "offload": "optimizer"},
        "ZeRO-2, optimizer away in rollouts": {"zero_stage": 2, "offload": "rollout"},
        "ZeRO-3, all offloaded": {"zero_stage": 3, "offload": "optimizer+params"},
        "asynchronous": {"asynchronous": True},
    }
    if not is_tiny:  # on a CPU the tests have these
        ways["ZeRO-3, optimizer away in rollouts"] = {"zero_stage": 3, "offload": "rollout"}
        ways["float32 logits"] = {"zero_stage": 2, "head_dtype": "float32"}
        ways["float16"] = {"zero_stage": 2, "dtype": "float16"}
    base = {
        "steps": 2,
        "difficulty": 1,
        "prompts_per_step": 8,
        "eval_problems": 4,
        "num_minibatches": 2,
        "tiny": {"steps": 400, "max_difficulty": 1},
        "checkpoint_every": 1,
    }
    base |= {"device": "cpu" if is_tiny else "cuda", "dtype": "float32" if is_tiny else "bfloat16"}
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, settings_) in enumerate(ways.items()):
            try:
                run = train(configs.load("tiny", **{**base, **settings_}, run_dir=f"{folder}/{i}"))
                last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
                said = f"mismatch {last['mismatch/mean_abs']:.2g}, gradient norm {last['grad_norm/mean']:.3g}"
            except Exception as error:  # noqa: BLE001 (the other ways still tell)
                said = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            row("train tiny", name, said)


def updates(is_tiny: bool) -> None:
    """Throughput, MFU and memory of updates, each in a process of its own; log-probabilities with the last one."""
    budgets = (96, 192) if is_tiny else (8192, 18_432)
    ways = [(budgets[0], False, False), (budgets[1], True, False)]
    ways += [] if is_tiny else [(budgets[1], True, True)]
    for way in ways:
        one_way(is_tiny, *way, way is ways[-1]) if is_tiny else apart(one_way, is_tiny, *way, way is ways[-1])


def one_way(is_tiny: bool, budget: int, again: bool, liger: bool, more: bool) -> None:
    """Updates in one way; with `more`, the log-probability pass as well."""
    config = settings(
        is_tiny, max_tokens_per_micro_batch=budget, gradient_checkpointing=again, liger=liger, zero_stage=2
    )
    part = f"update, {budget} tokens a micro-batch{', recomputed layers' * again}{', Liger' * liger}"
    policy = build(config)
    batch = batch_of(config, policy.lm.config.vocab_size)
    engine = make_engine(policy, config)
    known = plan.predict(config, length=config.max_new_tokens, hardware=card())

    def loss(micro: Weighted):
        micro = micro.to(config.device)
        return (micro.loss_weight * -micro.advantage * engine(micro)[0]).sum()

    try:
        took = seconds(lambda: engine.update(batch, loss))
    except torch.OutOfMemoryError:
        row(part, "peak memory, GB", "out of memory", peak_of(known) / 1e9)
        return
    predicted = known.seconds["update"] + known.seconds["optimizer step"]
    tokens = int(batch.attention_mask.sum())
    row(part, "tokens/s", tokens / took, tokens / predicted)
    pairs = int(batch.attention_mask.sum(1).square().sum()) / 2
    flops = 3 * known.shape.forward_flops(tokens, pairs, int(batch.mask.sum()))
    rate = known.hardware.flops
    row(part, "MFU", flops / took / rate, flops / predicted / rate)
    if not is_tiny:
        row(part, "peak memory, GB", torch.cuda.max_memory_allocated() / 1e9, peak_of(known) / 1e9)
        row(part, "reserved, GB", torch.cuda.max_memory_reserved() / 1e9)
        segments = torch.cuda.memory_snapshot()
        row(part, "expandable segments", f"{sum(s.get('is_expandable', False) for s in segments)} of {len(segments)}")
    if more:
        micros = [batch.select(rows) for rows in batch.micro_batches(config.micro_batch_size, budget)]
        old_logp(policy, [micro.to(config.device) for micro in micros], known)


def peak_of(known: plan.Plan) -> float:
    """Predicted bytes at the peak of an update and its optimizer step, which are measured together."""
    return max(sum(known.memory[phase].values()) for phase in ("update", "optimizer step"))


def old_logp(policy: Policy, micros: list[Rollout], known: plan.Plan) -> None:
    def run():
        with torch.no_grad():
            for micro in micros:
                policy(micro, with_entropy=True)

    row("old_logp", "seconds", seconds(run), known.seconds["old_logp"])


def checkpoint(is_tiny: bool) -> None:
    """Save and load after an optimizer step."""
    config = settings(is_tiny, max_tokens_per_micro_batch=192 if is_tiny else 18_432, zero_stage=2)
    policy = build(config)
    batch = batch_of(config, policy.lm.config.vocab_size)
    engine = make_engine(policy, config)
    engine.update(batch.select(torch.arange(2)), lambda micro: engine(micro.to(config.device))[0].sum())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        row("checkpoint", "seconds to save", seconds(lambda: engine.save(folder), 1, warm=0))
        row("checkpoint", "GB", sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) / 1e9)
        row("checkpoint", "seconds to load", seconds(lambda: engine.load(folder, 1), 1, warm=0))


def numbers(is_tiny: bool) -> None:
    """How far log π of the same tokens is apart: two passes, other batches, another precision of the output layer."""
    config = settings(is_tiny, max_tokens_per_micro_batch=192 if is_tiny else 18_432)
    policy = build(config)
    batch = batch_of(config, policy.lm.config.vocab_size).to(config.device)
    few = batch.select(torch.arange(2))
    logp = policy(few)[0].detach()
    with torch.no_grad():
        passes = {
            "the same batch without gradient": policy(few)[0],
            "each sequence alone": torch.cat([policy(few.select(rows))[0] for rows in torch.arange(2).split(1)]),
        }
        hidden = policy._right_padded(few)
        weight = policy.lm.get_output_embeddings().weight
        targets = few.completion[few.mask]
        exact = torch.cat(
            [
                F.linear(h.float(), weight.float()).log_softmax(-1).gather(1, t[:, None])[:, 0]
                for h, t in zip(hidden.split(512), targets.split(512), strict=True)
            ]
        )
    wide = token_logprobs(hidden, weight, targets, is_wide=True)[0].detach()
    for name, other in passes.items():
        off = f"mean {(logp - other).abs().mean():.2g}, largest {(logp - other).abs().max():.2g}"
        row("log π twice", name, "equal bits" if torch.equal(logp, other) else off)
    for name, other in {"the model's dtype": logp[few.mask], "float32": wide}.items():
        off = (other - exact).abs()
        row(f"log π, logits in {name}, beside float32 products", "mean, largest", f"{off.mean():.2g}, {off.max():.2g}")


def story(is_tiny: bool) -> None:
    """A training of two steps, from reading a checkpoint to writing one, and its phases beside the plan."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = settings(is_tiny)
        save_model(build(config), folder / "model")
        sizes = {
            "max_prompt_tokens": 256,
            "max_new_tokens": 32 if is_tiny else 128,
            "max_tokens_per_micro_batch": 18_432,
        }
        config = configs.make(
            {
                **{
                    "task": "math",
                    "data": str(PROBLEMS),
                    "model": str(folder / "model"),
                    "run_dir": str(folder / "run"),
                },
                **{
                    "dtype": config.dtype,
                    "device": config.device,
                    "zero_stage": 2,
                    "steps": 2,
                    "prompts_per_step": 8,
                    **sizes,
                },
                **{
                    "group_size": 8,
                    "num_minibatches": 4,
                    "eval_problems": 4,
                    "eval_samples": 1,
                    "log_reference_kl": False,
                },
                **{
                    "gradient_checkpointing": True,
                    "lr": 1e-6,
                    "entropy_coef": 0.01,
                    "eval_every": 0,
                    "checkpoint_every": 0,
                },
            }
        )
        run = train(config)
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        known = plan.predict(config, length=last["length/mean"], hardware=card())
        predicted = {
            "rollout": known.seconds["prefill"] + known.seconds["decode"],
            "old_logp": known.seconds["old_logp"],
            "update": known.seconds["update"] + known.seconds["optimizer step"],
        }
        for key, value in last.items():
            if key.startswith("seconds/"):
                row("two steps, the second", key, value, predicted.get(key.removeprefix("seconds/")))
        for key in ("length/mean", "mismatch/mean_abs", "mismatch/ratio_max", "grad_norm/mean"):
            row("two steps, the second", key, last[key])
        if not is_tiny:
            peak = torch.cuda.max_memory_allocated() / 1e9
            row("two steps", "peak memory, GB", peak, known.peak / 1e9)


def save_model(policy: Policy, folder: Path) -> None:
    """The policy and a tokenizer, as a checkpoint."""
    policy.lm.save_pretrained(folder)
    _tokenizer(PROBLEMS.read_text().splitlines()).save_pretrained(folder)


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of the problems, whose ids are below any model's."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<pad>", "<end>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet)
    bpe.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", eos_token="<end>")
