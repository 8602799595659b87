"""Numbers and a target: an expression in + - * / that uses each number at most once. A task with something to find.

    problem      3,4,6,9=27
    prompt       3,4,6,9=27<think>
    completion   9-4=5*6=30-3=27</think>\\boxed{(9-4)*6-3}

The difficulty is how many numbers. A target is drawn evenly from the two-digit ones that can be reached: those with few
solutions are as frequent as those with many. Training and held-out problems are disjoint by construction: a checksum of
the problem's text, whose numbers are sorted, says which side it is on.

The embedded policy has seen random trials, worked from left to right, each under the target at which it happened to
end. The answer in the box is the trial up to a step chosen *at random*. So the policy knows the format and the
arithmetic, and tries what often led to such a target; that the answer has to reach it is left to be found.
"""

import random
from collections import Counter
from collections.abc import Sequence
from functools import cache

from transformers import PreTrainedTokenizerFast

from dgpo.tasks.base import Problem
from dgpo.tasks.chain import final_answer
from dgpo.tasks.expression import parse
from dgpo.tasks.generated import GeneratedTask, is_heldout, word_tokenizer
from dgpo.verifier import Verdict

LARGEST = 50  # of a target and of the values in a trial: each is one token
SMALLEST_TARGET = 10
DIGITS = range(1, 10)
_WORDS = ("<think>", "</think>", "\\boxed{", "}", *map(str, range(LARGEST + 1)), *"+-*/(),;=")


def draw(rng: random.Random, difficulty: int, heldout: bool) -> Problem:
    """A random problem from one side of the split: sorted digits, and a target that they reach."""
    while True:
        numbers = tuple(sorted(rng.choices(DIGITS, k=difficulty)))
        if targets := reachable(numbers):
            text = problem_text(numbers, rng.choice(targets))
            if is_heldout(text) == heldout:
                return Problem(text, text + "<think>", text)


@cache
def reachable(numbers: tuple[int, ...]) -> tuple[int, ...]:
    """The targets that some trial with all of the numbers ends at."""
    states = {(n, numbers[:i] + numbers[i + 1 :]) for i, n in enumerate(numbers)}  # a value and the numbers left
    for _ in numbers[1:]:
        states = {
            (result, left[:i] + left[i + 1 :])
            for value, left in states
            for i, number in enumerate(left)
            for result in results(value, number).values()
        }
    return tuple(sorted({value for value, _ in states if value >= SMALLEST_TARGET}))


def results(value: int, number: int) -> dict[str, int]:
    """What a step of a trial can give, by its sign: the whole numbers from 0 to LARGEST."""
    found = {"+": value + number, "-": value - number, "*": value * number}
    if value % number == 0:
        found["/"] = value // number
    return {sign: result for sign, result in found.items() if 0 <= result <= LARGEST}


def trial(numbers: list[int], rng: random.Random, step_error_rate: float = 0.0) -> tuple[str, list[str], int]:
    """A random way through all of the numbers: worked from left to right, the expression after each step, the end.

    With probability `step_error_rate` a step has a wrong result, which the next one starts from.
    """
    value, *rest = rng.sample(numbers, len(numbers))
    worked = expression = str(value)
    expressions, is_sum = [], False
    for number in rest:
        possible = results(value, number)
        sign = rng.choice([*possible])
        value = possible[sign]
        if rng.random() < step_error_rate:
            value = (value + rng.randint(1, LARGEST)) % (LARGEST + 1)
        worked += f"{sign}{number}={value}"
        if is_sum and sign in "*/":
            expression = f"({expression})"
        expression, is_sum = f"{expression}{sign}{number}", sign in "+-"
        expressions.append(expression)
    return worked, expressions, value


def example(rng: random.Random, settings) -> tuple[str, str]:
    """A prompt and its worked completion, for the warm-up of the embedded policy (settings of `tiny`).

    The trial comes first; the target is where it ended (hindsight relabelling: Andrychowicz et al., arXiv 1707.01495).
    """
    while True:
        numbers = sorted(rng.choices(DIGITS, k=rng.randint(2, max(2, settings.max_difficulty))))
        worked, expressions, end = trial(numbers, rng, settings.step_error_rate)
        text = problem_text(numbers, end)
        if end >= SMALLEST_TARGET and not is_heldout(text):
            return text + "<think>", f"{worked}</think>\\boxed{{{rng.choice(expressions)}}}"


def problem_text(numbers: Sequence[int], target: int) -> str:
    return f"{','.join(map(str, numbers))}={target}"


def read(text: str) -> tuple[list[int], int]:
    """The numbers and the target of a problem's text."""
    numbers, target = text.split("=")
    return [int(n) for n in numbers.split(",")], int(target)


def judge(reference: str, completion: str) -> tuple[Verdict, str | None]:
    """Exact: the box holds an expression of the reference's numbers, each used at most once, that equals its target.

    The answer is the expression's form, the same however its summands and factors are ordered.
    """
    text = final_answer(completion)
    if text is None:
        return Verdict.no_answer, None
    try:
        found = parse(text)
    except ValueError:
        return Verdict.unparsed, text
    numbers, target = read(reference)
    right = Counter(found.numbers) <= Counter(numbers) and found.value == target
    return Verdict.correct if right else Verdict.wrong, found.form


def prompt_tokens(difficulty: int) -> int:
    return 2 * difficulty + 2


def completion_tokens(difficulty: int) -> int:
    """Tokens of the longest worked example, the end of sequence included."""
    return 6 * difficulty + 2 * ((difficulty - 1) // 2)


def tokenizer() -> PreTrainedTokenizerFast:
    """The task's own tokenizer: one token for each number up to LARGEST, sign and mark."""
    return word_tokenizer(_WORDS, r"</?think>|\\boxed\{|[0-9]+|.")


class CountdownTask(GeneratedTask):
    """Problems of `difficulty` numbers."""

    recipe = "countdown 1"

    @staticmethod
    def solution(completion: str) -> str:
        """The form of a right completion's expression: solutions that differ in it are counted as distinct."""
        return parse(final_answer(completion) or "").form

    draw = staticmethod(draw)
    judge = staticmethod(judge)
    example = staticmethod(example)
    tokenizer = staticmethod(tokenizer)
    prompt_tokens = staticmethod(prompt_tokens)
    completion_tokens = staticmethod(completion_tokens)

    @staticmethod
    def available(difficulty: int) -> int:
        """About half of the held-out share; the digits of one number reach no target."""
        return {1: 0, 2: 5, 3: 140}.get(difficulty, 1600)
