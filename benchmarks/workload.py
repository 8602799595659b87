"""One step's work, the same for every trainer that is measured: 32 prompts × 8 completions × 24 tokens, 8 updates.

`python -m benchmarks.workload dgpo|floor SIZE FOLDER` is a worker: for every line on standard input it does one step
and prints its phases in CPU seconds and its peak memory as JSON. benchmarks.floor and benchmarks.peers ask workers in
turn, so that what slows the machine down slows all of them down.

    small   two layers, hidden 64, 1,024 words; 0.2 M parameters
    20M     four layers, hidden 384, 32,000 words; 19 M parameters

Weights are random and nearly every completion runs to its 24 tokens. Float32, one thread, AdamW, gradients clipped at
1, no KL; rewards cost nothing.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

PROMPTS, COMPLETIONS, TOKENS, UPDATES, PROMPT_TOKENS = 32, 8, 24, 8, 16
SIZES = {
    "small": {"vocab_size": 1024, "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2},
    "20M": {"vocab_size": 32_000, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 4},
}


def make_model(folder: Path, size: str, heads: int = 4) -> None:
    """A Qwen2 with random weights and a tokenizer of numbered words, in `folder`."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    shape = SIZES[size]
    words = {"<eos>": 0, "<pad>": 1} | {f"w{i}": i for i in range(2, shape["vocab_size"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    torch.manual_seed(0)
    config = Qwen2Config(
        **shape, num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=512,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder)


def prompt(i: int) -> str:
    """The i-th prompt, as text; all have PROMPT_TOKENS tokens."""
    return " ".join(f"w{2 + (37 * i + 11 * j) % 1000}" for j in range(PROMPT_TOKENS))


def reward(text: str) -> float:
    """Something that varies and costs nothing."""
    return float(len(text) % 2)


def serve(step) -> None:
    """Answer every line of standard input with the CPU seconds of `step()`, by phase where it returns them."""
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.process_time()
        phases = step() or {}
        phases["step"] = time.process_time() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print("\n" + json.dumps({"seconds": phases, "peak_mb": peak}), flush=True)


class Clock(dict):
    """CPU seconds by phase."""

    @contextmanager
    def phase(self, name: str):
        start = time.process_time()
        yield
        self[name] = self.get(name, 0.0) + time.process_time() - start


def dgpo_step(folder: Path, **settings):
    """A function that does one step of the trainer's own loop, without its evaluations and checkpoints."""
    from types import SimpleNamespace

    import torch

    from dgpo import config as configs
    from dgpo import tasks, trainer

    class Task(SimpleNamespace):
        def train(self, position):
            return SimpleNamespace(prompt=prompt(position))

        def score(self, problems, completions, completion_ids):
            return [reward(c) for c in completions]

    tasks.make = lambda config, tokenizer: Task(
        notes={}, verdicts=Counter(), heldout=(), means=dict, close=lambda: None
    )
    config = configs.load(
        "tiny", model=str(folder), run_dir=str(folder / "run"), prompts_per_step=PROMPTS, group_size=COMPLETIONS,
        num_minibatches=UPDATES, micro_batch_size=PROMPTS * COMPLETIONS // UPDATES, max_prompt_tokens=PROMPT_TOKENS,
        max_new_tokens=TOKENS, steps=10_000, eval_every=0, checkpoint_every=0, log_reference_kl=False, threads=1,
        lr=1e-6, **settings,
    )  # fmt: skip
    made = trainer.Trainer(config)
    made.restore()
    number = iter(range(1, config.steps))

    def step():
        clock, i = Clock(), next(number)
        torch.manual_seed(i)
        with clock.phase("rollout"):
            batch, rewards, rolled = made.collector.collect()
            if i < config.steps:
                made.collector.begin()
        with clock.phase("old_logp"):
            batch, scored = made.score(batch, rewards)
        with clock.phase("update"):
            updated = made.update(i, batch)
        made.load_sampler()
        made.report(i, rolled | scored | updated)
        return clock

    return step


def floor_worker(folder: Path) -> None:
    """The calls alone: generate, forward without gradient, forward and backward, the optimizer's step."""
    import torch
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), PreTrainedTokenizerFast.from_pretrained(folder)
    optimizer = torch.optim.AdamW(lm.parameters(), lr=1e-6, weight_decay=0.0)
    rows = PROMPTS * COMPLETIONS // UPDATES

    def logp(tokens):
        logits = lm(tokens, use_cache=False, logits_to_keep=TOKENS + 1).logits[:, :-1]
        return logits.log_softmax(-1).gather(-1, tokens[:, -TOKENS:, None]).squeeze(-1)

    def step():
        clock = Clock()
        prompts = [prompt(i) for i in range(PROMPTS) for _ in range(COMPLETIONS)]
        with clock.phase("rollout"), torch.no_grad():
            inputs = tokenizer(prompts, return_tensors="pt")
            kind = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0}
            tokens = lm.generate(**inputs, **kind, max_new_tokens=TOKENS)
        with clock.phase("old_logp"), torch.no_grad():
            for part in tokens.split(rows):
                logp(part)
        with clock.phase("update"):
            for part in tokens.split(rows):
                optimizer.zero_grad()
                logp(part).mean().neg().backward()
                torch.nn.utils.clip_grad_norm_(lm.parameters(), 1.0)
                optimizer.step()
        return clock

    serve(step)


@contextmanager
def workers(size: str, commands: dict[str, list[str]]):
    """Name → a function that does one step there and returns its answer; each warmed up by one step."""
    with tempfile.TemporaryDirectory() as scratch:
        started = {}
        for name, command in commands.items():
            folder = Path(scratch) / name
            folder.mkdir()
            make_model(folder, size)
            started[name] = subprocess.Popen(
                [*command, size, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            )

        def ask(name):
            process = started[name]
            process.stdin.write("step\n")
            process.stdin.flush()
            return json.JSONDecoder().raw_decode(_answer(name, process))[0]  # a thread may print behind it

        try:
            for name, process in started.items():
                while _answer(name, process).strip() != "ready":
                    pass
                ask(name)
            yield {name: (lambda name=name: ask(name)) for name in started}
        finally:
            for process in started.values():
                process.kill()
                process.wait()


def _answer(name: str, process) -> str:
    for line in process.stdout:
        if line.startswith('{"seconds"') or line.strip() == "ready":  # others print too
            return line
    raise RuntimeError(f"the worker {name!r} ended with exit code {process.wait()}")


if __name__ == "__main__":
    folder = Path(sys.argv[3])
    serve(dgpo_step(folder)) if sys.argv[1] == "dgpo" else floor_worker(folder)
