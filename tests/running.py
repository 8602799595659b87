"""Runs, sweeps, notebooks and models, as several tests make them. (A conftest.py is not imported: there are two.)"""

import json
import os
from pathlib import Path

import nbformat
import papermill
import torch
import yaml
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from dgpo import config as configs
from dgpo.batch import Rollout
from dgpo.run.rows import read_metrics
from dgpo.sweeps import definition
from dgpo.trainer import train

ROOT = Path(__file__).parents[1]
BOOKS = ROOT / "notebooks"
OWN = ROOT / "dgpo" / "tasks" / "data" / "problems.jsonl"
DATA = Path(os.environ.get("DGPO_DATA", ROOT.parent / "shared" / "data"))
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|assistant|><think>\n"
SMALL = {
    "tiny": {"hidden": 32, "layers": 2, "heads": 2, "max_difficulty": 2, "steps": 200, "seed": 0},
    "difficulty": 1,
    "steps": 4,
    "prompts_per_step": 8,
    "group_size": 4,
    "num_minibatches": 4,
    "micro_batch_size": 4,
    "max_new_tokens": 14,
    "eval_problems": 6,
    "eval_samples": 2,
    "eval_every": 2,
    "checkpoint_every": 2,
    "token_records": 64,
}

SWEPT = {**SMALL, "steps": 3, "checkpoint_every": 1}
LEVELS = {
    "grpo": {"method": "grpo", "eps_high": 0.2},
    "gppo": {"method": "gppo", "dual_clip": 3},
}


def run(settings, **overrides):
    """Train with settings and overrides; the run folder."""
    return train(configs.make({**settings, **overrides}))


def rows(folder):
    """Metrics without the wall times, which two runs do not share."""
    return read_metrics(Path(folder))


def weights(folder):
    """The weights that a run has learned, by name."""
    return load_file(Path(folder) / "policy" / "model.safetensors")


def execute(book, out, parameters, **options):
    """Run a notebook with parameters; the path of the executed one."""
    papermill.execute_notebook(
        str(BOOKS / f"{book}.ipynb"), str(out), parameters, progress_bar=False, kernel_name="python3", **options
    )
    return out


def shown(executed):
    """What the cells of an executed notebook show: a mapping of MIME type to data for each output."""
    cells = [c for c in nbformat.read(executed, 4).cells if c.cell_type == "code"]
    return [o.get("data", {}) for c in cells for o in c.outputs]


def sweep_in(folder, **changes):
    """A sweep of two cells and two seeds, with changes to its fields, as its file FOLDER.yaml says."""
    fields = {"name": "test", "folder": str(folder), "settings": SWEPT, "factors": {"method": LEVELS}, "seeds": [0, 1]}
    path = Path(folder).with_name(f"{Path(folder).name}.yaml")
    path.write_text(yaml.safe_dump({**fields, **changes}, sort_keys=False))
    return definition.load(path)


def some_problems(path, name, count):
    """The first `count` rows of the problem file NAME where it is at hand, else of the repository's own, as a file."""
    source = DATA / f"{name}.jsonl"
    source = source if source.exists() else OWN
    path.write_text("\n".join(source.read_text().splitlines()[:count]) + "\n")
    return path


def random_model(folder, problems, template=None, words=600, **size):
    """The folder of a Qwen2 with random weights and a byte-level tokenizer trained on a problem file."""
    bpe = ByteLevelBPETokenizer()
    special = ["<|endoftext|>", "<|user|>", "<|assistant|>"]
    texts = [json.loads(line)["problem"] for line in problems.read_text().splitlines()]
    bpe.train_from_iterator(texts, vocab_size=words, special_tokens=special, show_progress=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe._tokenizer, eos_token=special[0], pad_token=special[0])
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, **size}
    Qwen2ForCausalLM(Qwen2Config(vocab_size=len(tokenizer), num_key_value_heads=2, **size)).save_pretrained(folder)
    return folder


def make_batch(prompts, completions, pad=0):
    """A Rollout of these tokens, prompts padded on the left and completions on the right."""
    P, T = max(map(len, prompts)), max(map(len, completions))
    rows = [[pad] * (P - len(p)) + p + c + [pad] * (T - len(c)) for p, c in zip(prompts, completions, strict=True)]
    prompt = torch.tensor([[0] * (P - len(p)) + [1] * len(p) for p in prompts]).bool()
    mask = torch.tensor([[1] * len(c) + [0] * (T - len(c)) for c in completions]).bool()
    return Rollout(
        input_ids=torch.tensor(rows),
        attention_mask=torch.cat([prompt, mask], 1),
        mask=mask,
        rollout_logp=torch.zeros(mask.shape),
        finished=mask.any(1),
        sequence_id=torch.arange(len(rows)),
    )
