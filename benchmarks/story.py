"""A harder family of problems, for a GPU: python -m benchmarks.story [FOLDER] [key=value ...]

Writes word problems of several steps with names and distractors (train.jsonl, test.jsonl), trains a policy on worked
examples of the easier ones from scratch (policy/), and runs the sweep of FOLDER/sweep.yaml: the paper's six methods, on
difficulties that the policy has never seen. Killed at any moment, the same command goes on where it was.

    problem      Ben has 3 times as many pears as Ann. Dan has 8 fewer pears than Eve. Ann has 7 pears.
                 Eve has 5 more pears than Ben. How many pears does Eve have?
    completion   <think>Eve Ben Ann. Ann 7. Ben 7*3=21. Eve 21+5=26.</think>\\boxed{26}

The difficulty is the number of operations between the given number and the answer. As many people again hang off the
others and do not matter, and the sentences are shuffled. A worked example first goes back from the question to the
given number, then calculates; it slips at an operation with probability `slip`. How hard the problems have to be for
the trained policy to solve some and not all of them is to be found on the machine at hand: `easy` and `hard`.
"""

import json
import random
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import pydantic
import torch
import yaml
from pydantic import BaseModel, ConfigDict
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from dgpo import __main__ as cli
from dgpo.config import ConfigError
from dgpo.files import atomic_write
from dgpo.model import tiny
from dgpo.progress import Progress
from dgpo.seeds import fold_in

NAMES = (
    *("Ann", "Ben", "Cem", "Dan", "Eve", "Flo", "Gus", "Hal", "Ida", "Jon", "Kim", "Lea"),
    *("Max", "Nia", "Oli", "Pam", "Quy", "Rob", "Sue", "Tom", "Uma", "Vic", "Wes", "Zoe"),
)
ITEMS = ("apples", "pears", "coins", "books", "stamps", "shells", "marbles", "cards", "pens", "keys")
LARGEST = 999
_WORDS = ("has", "have", "does", "more", "fewer", "than", "times", "half", "as", "many", "How", *NAMES, *ITEMS)
_MARKS = ("<think>", "</think>", "\\boxed{", "}", " ", "\n", *"0123456789.?=+-*/")
_TOKEN = r"</?think>|\\boxed\{| ?[A-Za-z]+|."
# the problem alone, without the instruction that the checkpoints of others need
_TEMPLATE = "{{ messages[0]['content'].split('\n')[0] }}\n<think>"
_HELDOUT_SHARE = 5


class Settings(BaseModel):
    """hidden 512 and 6 layers are 25 M parameters. Difficulties up to `easy` are shown, those of `hard` left to RL.

    rl: settings of the sweep's runs, over the ones below. seeds: of the sweep; an empty list leaves it out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    hidden: int = 512
    layers: int = 6
    heads: int = 8
    easy: int = 4
    hard: list[int] = [5, 6]
    slip: float = 0.1
    steps: int = 6000
    batch: int = 256
    lr: float = 1e-3
    init: float = 0.04
    problems: int = 20_000
    save_every: int = 250
    workers: int = 0
    seeds: list[int] = [0, 1, 2]
    rl: dict = {}


RL = {
    "task": "math",
    "max_prompt_tokens": 512,
    "max_new_tokens": 160,
    "prompts_per_step": 32,
    "group_size": 16,
    "num_minibatches": 16,
    "micro_batch_size": 32,
    "generation_batch_size": 512,
    "lr": 1e-4,
    "steps": 100,
    "eval_every": 20,
    "eval_problems": 128,
    "eval_samples": 8,
    "checkpoint_every": 5,
    "keep_checkpoints": 1,
}
METHODS = {
    "grpo": {"method": "grpo", "eps_low": 0.2, "eps_high": 0.2, "dual_clip": 3},
    "cispo": {"method": "cispo", "eps_low": 0.2, "eps_high": 0.2},
    "gppo": {"method": "gppo", "eps_low": 0.2, "eps_high": 0.2, "dual_clip": 3},
    "ce_gppo": {"method": "ce_gppo", "eps_low": 0.2, "eps_high": 0.2, "dual_clip": 3},
    "aspo": {"method": "aspo", "eps_low": 0.2, "eps_high": 0.2, "dual_clip": 3},
    "dgpo": {"method": "dgpo", "eps_low": 0.2, "eps_high": 0.2, "n": 1, "m": 2},
}


@dataclass(frozen=True)
class Story:
    text: str
    steps: tuple[tuple[str, str, int], ...]  # who, how ("", "*3", "+5", "-8", "/2"), value

    @property
    def answer(self) -> str:
        return str(self.steps[-1][2])


def draw(rng: random.Random, difficulty: int, heldout: bool = False) -> Story:
    """A random problem from one side of the split, which a checksum of its text decides."""
    while True:
        story = _draw(rng, difficulty)
        if (zlib.crc32(story.text.encode()) % _HELDOUT_SHARE == 0) == heldout:
            return story


def _draw(rng: random.Random, difficulty: int) -> Story:
    people = rng.sample(NAMES, 2 * difficulty + 1)
    item = rng.choice(ITEMS)
    first, chain, others = people[0], people[1 : difficulty + 1], people[difficulty + 1 :]
    values = {first: rng.randrange(2, 40)}
    sentences = [f"{first} has {values[first]} {item}."]
    steps, before = [(first, "", values[first])], first
    for who in chain:
        how, values[who], words = _relation(rng, values[before], item, before)
        sentences.append(f"{who} has {words}.")
        steps.append((who, how, values[who]))
        before = who
    for who in others:
        whom = rng.choice(list(values))
        _, values[who], words = _relation(rng, values[whom], item, whom)
        sentences.append(f"{who} has {words}.")
    rng.shuffle(sentences)
    return Story(f"{' '.join(sentences)} How many {item} does {before} have?", tuple(steps))


def _relation(rng: random.Random, value: int, item: str, whom: str) -> tuple[str, int, str]:
    k = rng.randrange(2, 30)
    factor = rng.randrange(2, 5)
    options = [("+", k, value + k, f"{k} more {item} than {whom}")]
    if value > k:
        options.append(("-", k, value - k, f"{k} fewer {item} than {whom}"))
    if value * factor <= LARGEST:
        options.append(("*", factor, value * factor, f"{factor} times as many {item} as {whom}"))
    if value % 2 == 0:
        options.append(("/", 2, value // 2, f"half as many {item} as {whom}"))
    sign, number, result, words = rng.choice(options)
    return f"{sign}{number}", result, words


def worked_example(story: Story, rng: random.Random, slip: float) -> str:
    """The completion; after a slip the work goes on from the wrong value, as it would."""
    (who, _, value), *rest = story.steps
    back = " ".join(step[0] for step in reversed(story.steps))  # whom the question leads to
    lines = [f"{back}.", f"{who} {value}."]
    for who, how, _ in rest:
        result = _apply(value, how)
        if rng.random() < slip:
            result = max(0, result + rng.choice((-10, -2, -1, 1, 2, 10)))
        lines.append(f"{who} {value}{how}={result}.")
        value = result
    return f"{' '.join(lines)}</think>\\boxed{{{value}}}"


def _apply(value: int, how: str) -> int:
    number = int(how[1:])
    return {"+": value + number, "-": value - number, "*": value * number, "/": value // number}[how[0]]


def tokenizer() -> PreTrainedTokenizerFast:
    """A token for each word with and without its space, each digit and each mark."""
    special = ("<pad>", "<eos>", "<unk>")
    words = (*special, *_MARKS, *_WORDS, *(f" {w}" for w in _WORDS))
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(_TOKEN), behavior="isolated")
    inner.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left"
    )
    made.chat_template = _TEMPLATE
    return made


def write_problems(folder: Path, settings: Settings) -> None:
    """train.jsonl and test.jsonl, hard problems on either side of the split."""
    for name, count, heldout in (("train", settings.problems, False), ("test", settings.problems // 40, True)):
        rng = random.Random(f"story {name}")
        stories = [draw(rng, rng.choice(settings.hard), heldout) for _ in range(count)]
        lines = "".join(json.dumps({"problem": s.text, "answer": s.answer}) + "\n" for s in stories)
        atomic_write(folder / f"{name}.jsonl", lambda scratch, lines=lines: scratch.write_text(lines))


def pretrain(folder: Path, settings: Settings) -> None:
    """Supervised steps on fresh worked examples, from the newest saved state on; ends with folder/policy."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    words, state = tokenizer(), folder / "pretrain.pt"
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(tiny.shape(settings, words, positions=1024)).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.lr, total_steps=settings.steps + 1, pct_start=0.05, cycle_momentum=False
    )
    parts, start = {"model": model, "optimizer": optimizer, "schedule": schedule}, 0
    if state.exists():
        saved = torch.load(state, map_location=device, weights_only=True)
        start = saved.pop("step")
        for name, part in parts.items():
            part.load_state_dict(saved[name])
    steps = range(start + 1, settings.steps + 1)
    examples = DataLoader(_Examples(settings, words), batch_size=None, sampler=steps, num_workers=settings.workers)
    with Progress(start, settings.steps, "pretraining step") as progress:
        for step, batch in zip(steps, examples, strict=True):
            tokens, labels = (x.to(device) for x in batch)
            half = torch.autocast(device, torch.bfloat16, enabled=device == "cuda")
            loss = tiny.supervised_step(model, optimizer, tokens, labels, half)
            schedule.step()
            if step % 10 == 0:
                progress.update(step, loss=loss.item())
            if step % settings.save_every == 0 or step == settings.steps:
                whole = {"step": step} | {name: part.state_dict() for name, part in parts.items()}
                atomic_write(state, lambda scratch, whole=whole: torch.save(whole, scratch))

    def save(scratch: Path):
        model.eval().save_pretrained(scratch)
        words.save_pretrained(scratch)

    atomic_write(folder / "policy", save)


class _Examples(Dataset):
    """The batch of a step, as a function of its number: workers may make them in any order."""

    def __init__(self, settings: Settings, words):
        self.settings, self.words = settings, words

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        settings, rng = self.settings, random.Random(fold_in("story", step))
        stories = [draw(rng, rng.randint(1, settings.easy)) for _ in range(settings.batch)]
        prompts = self.words([f"{s.text}\n<think>" for s in stories]).input_ids
        completions = self.words([worked_example(s, rng, settings.slip) for s in stories]).input_ids
        rows = [(p, [*c, self.words.eos_token_id]) for p, c in zip(prompts, completions, strict=True)]
        return tiny.stack(rows, self.words.pad_token_id)


def sweep_file(folder: Path, settings: Settings) -> Path:
    """The sweep over the paper's methods, with the policy and the problems of this folder."""
    files = {"model": folder / "policy", "data": folder / "train.jsonl", "eval_data": folder / "test.jsonl"}
    fields = {
        "name": "story",
        "folder": str(folder / "runs"),
        "settings": RL | {name: str(path) for name, path in files.items()} | settings.rl,
        "factors": {"method": METHODS},
        "seeds": settings.seeds,
    }
    atomic_write(folder / "sweep.yaml", lambda scratch: scratch.write_text(yaml.safe_dump(fields, sort_keys=False)))
    return folder / "sweep.yaml"


def main(words: list[str]) -> int:
    """Whatever of problems, policy and runs is not there yet; then the sweep's report."""
    folder = Path("runs/story" if not words or "=" in words[0] else words.pop(0))
    try:
        settings = Settings(**cli.parse(["tiny", *words])[1])
    except (ConfigError, pydantic.ValidationError) as error:
        raise SystemExit(f"error: {error}") from None
    folder.mkdir(parents=True, exist_ok=True)
    made, asked = folder / "story.json", settings.model_dump_json(exclude={"seeds", "rl", "save_every", "workers"})
    if made.exists() and made.read_text() != asked:
        raise SystemExit(f"error: {folder} was begun with {made.read_text()}, not {asked}: take another folder")
    atomic_write(made, lambda scratch: scratch.write_text(asked))
    if not (folder / "test.jsonl").exists():
        write_problems(folder, settings)
    if not (folder / "policy").exists():
        pretrain(folder, settings)
    if not settings.seeds:
        return 0
    return cli.main(["sweep", str(sweep_file(folder, settings))])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
