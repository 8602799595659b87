"""Chains of + − × modulo ten, worked left to right: a task whose answer needs its intermediate steps.

    problem      7+5*3-2=
    completion   <think>7+5=2;2*3=6;6-2=4</think>\\boxed{4}

The difficulty is the number of operations. Training and held-out problems are disjoint by construction: a checksum of
the problem's text says which side it is on, at every difficulty.
"""

import random
import re

from transformers import PreTrainedTokenizerFast

from dgpo.tasks.base import Problem
from dgpo.tasks.generated import HELDOUT_SHARE, GeneratedTask, is_heldout, word_tokenizer
from dgpo.verifier import Verdict

OPERATIONS = {"+": lambda a, b: (a + b) % 10, "-": lambda a, b: (a - b) % 10, "*": lambda a, b: (a * b) % 10}
_WORDS = ("<think>", "</think>", "\\boxed{", "}", *"0123456789", *OPERATIONS, "=", ";")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


def draw(rng: random.Random, difficulty: int, heldout: bool) -> Problem:
    """A random problem from one side of the split."""
    while True:
        digits = [rng.randrange(10) for _ in range(difficulty + 1)]
        signs = [rng.choice("+-*") for _ in range(difficulty)]
        text = str(digits[0]) + "".join(f"{s}{d}" for s, d in zip(signs, digits[1:], strict=True))
        if is_heldout(text) == heldout:
            return Problem(text, text + "=", solve(text)[-1][-1])


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


def judge(reference: str, completion: str) -> tuple[Verdict, str | None]:
    """Exact: the box holds the digit and nothing else."""
    answer = final_answer(completion)
    if answer is None:
        return Verdict.no_answer, None
    return Verdict.correct if answer == reference else Verdict.wrong, answer


def prompt_tokens(difficulty: int) -> int:
    return 2 * difficulty + 2


def completion_tokens(difficulty: int) -> int:
    """Tokens of a worked example, the end of sequence included."""
    return 6 * difficulty + 5


def tokenizer() -> PreTrainedTokenizerFast:
    """The task's own tokenizer: one token for each digit, sign and mark."""
    return word_tokenizer(_WORDS, r"</?think>|\\boxed\{|.")


class ChainTask(GeneratedTask):
    """Problems of `difficulty` operations."""

    recipe = ""
    draw = staticmethod(draw)
    judge = staticmethod(judge)
    example = staticmethod(example)
    tokenizer = staticmethod(tokenizer)
    prompt_tokens = staticmethod(prompt_tokens)
    completion_tokens = staticmethod(completion_tokens)

    @staticmethod
    def available(difficulty: int) -> int:
        return 10 * 30**difficulty // (2 * HELDOUT_SHARE)
