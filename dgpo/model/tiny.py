"""The embedded policy: a small Qwen2 trained on worked examples of one task, and nothing else.

It is an ordinary checkpoint folder, cached under a key of its settings and its task. The examples leave something for
reinforcement learning to find. Those of `chain` are wrong at each step with probability `step_error_rate`, so the
policy knows how to reason but not which step is right. (Trained on clean but too few examples instead, it does not
learn from RL.) Those of `countdown` are random trials: it knows how to try, not what to aim at.

The class of the task, here `task`, has `tokenizer()`, and `example(rng, settings)`, which returns a prompt and its
worked completion.
"""

import hashlib
import inspect
import os
import random
import shutil
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch.nn import functional as F
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils.logging import disable_progress_bar

from dgpo.config_parts import TinyPolicy
from dgpo.distributed import process_group
from dgpo.errors import ConfigError, blaming
from dgpo.model.loading import load_lm
from dgpo.model.policy import pick_device, set_threads
from dgpo.plain import path_text
from dgpo.progress import Progress
from dgpo.tasks import task_class
from dgpo.tasks.chain import ChainTask

_VERSION = 2  # part of the cache key: raise it when the recipe below changes


def key(settings: TinyPolicy, task=ChainTask) -> str:
    """The name of a cached policy: a hash of all it depends on, including the source of a user's own task."""
    recipe = vars(task).get("recipe")  # not an inherited one: a class of one's own has other examples
    if recipe is None:
        recipe = inspect.getsource(sys.modules[task.__module__])
    return hashlib.sha256(f"{_VERSION} {settings.model_dump_json()}{recipe}".encode()).hexdigest()[:12]


def cache_root() -> Path:
    """$DGPO_CACHE, else dgpo/ in the user's cache folder."""
    if own := os.environ.get("DGPO_CACHE"):
        return Path(path_text(own))
    return Path(path_text(os.environ.get("XDG_CACHE_HOME") or "~/.cache")) / "dgpo"


def load_policy(config, weights: bool = True):
    """(causal LM, tokenizer, checkpoint) of a Config or EvalConfig: its own folder, or the embedded policy's.

    Without `weights` the model is an outline on the meta device.

    Sets torch's threads and its float32 matrix products for this process. A warm-up, which runs share, always has the
    full precision.
    """
    source = config.model
    torch.set_float32_matmul_precision("highest")
    if config.model == "tiny":
        set_threads(config.threads, parameters=0)
        task = task_of(config)
        process_group.on_rank0(checkpoint, config.tiny, None, task)
        source = checkpoint(config.tiny, None, task)  # made already, unless this host has a cache of its own
    if weights:
        how = (config.dtype, pick_device(config.device), config.attention, config.trust_remote_code)
        lm, tokenizer = process_group.on_all_ranks(load_lm, source, *how)
    else:
        from dgpo.model.outline import load_outline

        lm, tokenizer = process_group.on_all_ranks(load_outline, source, config.trust_remote_code)
    set_threads(config.threads, lm.num_parameters())
    torch.set_float32_matmul_precision(config.float32_matmul)
    return lm, tokenizer, source


def task_of(config) -> Any:
    """The class of a config's task. Raises ConfigError if it has no tokenizer or no worked examples."""
    task = task_class(config.task)
    if absent := [name for name in ("tokenizer", "example") if not callable(getattr(task, name, None))]:
        raise ConfigError(
            f"model='tiny' needs {config.task}.{absent[0]}, a static method as in dgpo.tasks.chain; or model=FOLDER"
        )
    return task


def checkpoint(settings: TinyPolicy, root: Path | None = None, task: Any = ChainTask) -> Path:
    """The folder of the warmed-up policy; made on first use, whole or not at all."""
    root = root or cache_root()
    with blaming(f"the cache {str(root)!r}", root, "; set DGPO_CACHE to a writable folder"):
        return _checkpoint(settings, root, task)


def _checkpoint(settings: TinyPolicy, root: Path, task) -> Path:
    target = root / f"tiny-{key(settings, task)}"
    if not target.exists():
        root.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=root))
        try:
            disable_progress_bar()
            if not torch.cuda.is_available():  # to save, transformers may import DeepSpeed, which announces its choice
                os.environ.setdefault("DS_ACCELERATOR", "cpu")
            warm_up(settings, task).save_pretrained(scratch)
            task.tokenizer().save_pretrained(scratch)
            (scratch / "tiny.json").write_text(settings.model_dump_json(indent=2))
            try:
                scratch.rename(target)
            except OSError:
                if not target.exists():  # else another process was first, and its folder is the same
                    raise
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return target


def shape(settings, tokenizer=None, positions: int = 512) -> Qwen2Config:
    """The architecture: `hidden`, `layers`, `heads` and `init` of the settings, over a tokenizer's vocabulary.

    The tokenizer is that of `chain` unless given.
    """
    tokenizer = tokenizer or ChainTask.tokenizer()
    return Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden,
        intermediate_size=4 * settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=positions,
        tie_word_embeddings=True,
        initializer_range=settings.init,
        bos_token_id=None,
        eos_token_id=cast(int, tokenizer.eos_token_id),
        pad_token_id=cast(int, tokenizer.pad_token_id),
    )


def build(settings: TinyPolicy, task: Any = ChainTask) -> Qwen2ForCausalLM:
    """The policy with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Qwen2ForCausalLM(shape(settings, task.tokenizer()))


def warm_up(settings: TinyPolicy, task=ChainTask) -> Qwen2ForCausalLM:
    """Supervised steps on fresh worked examples; the loss is over completion tokens only."""
    model, tokenizer = build(settings, task).train(), task.tokenizer()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps, pct_start=0.1, cycle_momentum=False
    )
    rng = random.Random(settings.seed)
    with Progress(0, settings.steps, "warm-up step") as progress:
        for step in range(1, settings.steps + 1):
            loss = supervised_step(model, optimizer, *_examples(settings, rng, tokenizer, task))
            schedule.step()
            progress.update(step, loss=loss.item())
    return model.eval()


def supervised_step(model, optimizer, tokens: torch.Tensor, labels: torch.Tensor, forward=None):
    """One step on a batch from `stack`, gradient clipped at 1; returns the loss. `forward` wraps the forward pass."""
    with forward or nullcontext():
        logits = model(input_ids=tokens).logits[:, :-1]
    loss = F.cross_entropy(logits.float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach()


def _examples(settings: TinyPolicy, rng: random.Random, tokenizer, task) -> tuple[torch.Tensor, torch.Tensor]:
    rows = []
    for _ in range(settings.batch):
        prompt, completion = (tokenizer(text).input_ids for text in task.example(rng, settings))
        rows.append((prompt, [*completion, tokenizer.eos_token_id]))
    return stack(rows, tokenizer.pad_token_id)


def stack(rows: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts with their completions as (tokens, labels) `[B, T]`, right-padded; a label of −100 does not count."""
    width = max(len(p) + len(c) for p, c in rows)
    tokens = torch.full((len(rows), width), pad)
    labels = torch.full_like(tokens, -100)
    for i, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        tokens[i, :end] = torch.tensor(prompt + completion)
        labels[i, len(prompt) : end] = torch.tensor(completion)
    return tokens, labels
