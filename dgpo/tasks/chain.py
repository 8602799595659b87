"""Chains of + − × modulo ten, worked left to right: a task whose answer needs its intermediate steps.

    problem      7+5*3-2=
    completion   <think>7+5=2;2*3=6;6-2=4</think>\\boxed{4}

The difficulty is the number of operations. Training and held-out problems are disjoint by construction: a checksum of
the problem's text says which side it is on, at every difficulty.
"""

import random
import re
import zlib
from collections import Counter
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dgpo.config import ConfigError
from dgpo.tasks.base import Problem, Task

OPERATIONS = {"+": lambda a, b: (a + b) % 10, "-": lambda a, b: (a - b) % 10, "*": lambda a, b: (a * b) % 10}
PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
_WORDS = ("<think>", "</think>", "\\boxed{", "}", *"0123456789", *OPERATIONS, "=", ";")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_HELDOUT_SHARE = 5  # every fifth problem, by checksum


class ChainTask(Task):
    """Problems of `difficulty` operations; the reward is 1 for the exact final answer, else 0.

    The training stream depends on (`seed`, position); the held-out problems on neither, so all runs share them.
    """

    def __init__(self, difficulty: int, seed: int, heldout: int):
        self.difficulty, self.seed, self.notes, self.verdicts = difficulty, seed, {}, Counter()
        available = 10 * 30**difficulty // (2 * _HELDOUT_SHARE)  # half of the held-out share: drawing stays quick
        if heldout > available:
            raise ConfigError(f"eval_problems={heldout} must be at most {available} at difficulty={difficulty}")
        found: dict[str, Problem] = {}
        rng = random.Random("held-out")
        while len(found) < heldout:
            problem = draw(rng, difficulty, heldout=True)
            found[problem.id] = problem
        self.heldout = tuple(found.values())

    def train(self, position: int) -> Problem:
        return draw(random.Random(f"{self.seed}:{position}"), self.difficulty, heldout=False)

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        answers = [final_answer(c) for c in completions]
        right = [a == p.answer for p, a in zip(problems, answers, strict=True)]
        found = ("correct" if r else "no_answer" if a is None else "wrong" for r, a in zip(right, answers, strict=True))
        self.verdicts.update(found)
        return [float(r) for r in right]


def draw(rng: random.Random, difficulty: int, heldout: bool) -> Problem:
    """A random problem from one side of the split."""
    while True:
        digits = [rng.randrange(10) for _ in range(difficulty + 1)]
        signs = [rng.choice("+-*") for _ in range(difficulty)]
        text = str(digits[0]) + "".join(f"{s}{d}" for s, d in zip(signs, digits[1:], strict=True))
        if is_heldout(text) == heldout:
            return Problem(text, text + "=", solve(text)[-1][-1])


def is_heldout(text: str) -> bool:
    return zlib.crc32(text.encode()) % _HELDOUT_SHARE == 0


def solve(text: str, rng: random.Random | None = None, step_error_rate: float = 0.0) -> list[str]:
    """The worked steps. With probability `step_error_rate` a step has another digit, which the next ones use."""
    value, steps = int(text[0]), []
    for sign, digit in zip(text[1::2], text[2::2], strict=True):
        result = OPERATIONS[sign](value, int(digit))
        if rng is not None and rng.random() < step_error_rate:
            result = (result + rng.randrange(1, 10)) % 10
        steps.append(f"{value}{sign}{digit}={result}")
        value = result
    return steps


def worked_example(problem: Problem, rng: random.Random, step_error_rate: float) -> str:
    """A completion in the task's format, each step wrong with probability `step_error_rate`."""
    steps = solve(problem.id, rng, step_error_rate)
    return f"<think>{';'.join(steps)}</think>\\boxed{{{steps[-1][-1]}}}"


def example(rng: random.Random, settings) -> tuple[str, str]:
    """A prompt and its worked completion, for the warm-up of the embedded policy (settings of `tiny`)."""
    problem = draw(rng, rng.randint(1, settings.max_difficulty), heldout=False)
    return problem.prompt, worked_example(problem, rng, settings.step_error_rate)


def final_answer(completion: str) -> str | None:
    """The content of the last closed box, or None."""
    boxes = _BOXED.findall(completion)
    return boxes[-1] if boxes else None


def prompt_tokens(difficulty: int) -> int:
    return 2 * difficulty + 2


def completion_tokens(difficulty: int) -> int:
    """Tokens of a worked example, the end of sequence included."""
    return 6 * difficulty + 5


def tokenizer() -> PreTrainedTokenizerFast:
    """The task's own tokenizer: one token for each digit, sign and mark."""
    words = (PAD, EOS, UNK, *_WORDS)
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNK))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"</?think>|\\boxed\{|."), behavior="isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, eos_token=EOS, unk_token=UNK, padding_side="left"
    )
