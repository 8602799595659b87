"""Word problems in English with a few additions and subtractions of small numbers, for a small language model.

    problem      Mia has 9 shells. She finds 4 more. She gives 6 to Ben. How many shells does Mia have now?
    completion   9 + 4 = 13, 13 - 6 = 7. The answer is \\boxed{7}.

The difficulty is the number of operations; from three on, a sentence about other things distracts. Worked examples of
the same difficulty are earlier turns of the chat. Training and held-out problems are disjoint by construction: a
checksum of the calculation ("9+4-6") says which side it is on, so that no held-out calculation is ever trained on in
other words.
"""

import random
import zlib
from collections import Counter
from collections.abc import Sequence

from dgpo.errors import ConfigError
from dgpo.tasks.base import Problem, Task
from dgpo.tasks.prompts import prompt
from dgpo.verifier import Verdict, Verifier

EXAMPLES = 2  # in each prompt: the untrained model hardly ever boxes an answer without them
LARGEST = 9  # number in a problem
_HELDOUT_SHARE = 5  # every fifth calculation, by checksum

_PEOPLE = (("Mia", "She"), ("Ben", "He"), ("Ana", "She"), ("Tom", "He"), ("Zoe", "She"), ("Sam", "He"), ("Eva", "She"))
_THINGS = ("pens", "shells", "apples", "cards", "books", "stamps", "coins", "balls", "eggs", "stones", "cups", "keys")
_START = ("{name} has {n} {things}.", "{name} owns {n} {things}.", "There are {n} {things} in {name}'s bag.")
_EVENTS = {
    "+": (
        "{he} buys {n} more.",
        "{he} finds {n} more.",
        "{other} gives {name} {n} more.",
        "{he} gets {n} from {other}.",
    ),
    "-": ("{he} gives {n} to {other}.", "{he} loses {n}.", "{he} sells {n} of them.", "{other} takes {n} of them."),
}
_ASIDE = ("{other} has {n} {others}.", "{name} also has {n} {others}.", "{n} {others} are on the table.")
_QUESTION = (
    "How many {things} does {name} have now?",
    "How many {things} are there now?",
    "What is the number of {things} now?",
)


class WordTask(Task):
    """Problems of `difficulty` operations; a Verifier judges: 1 for the right answer in the last closed box, else 0.

    The training stream depends on (`seed`, position); the held-out problems on neither, so all runs share them. Reads
    the settings difficulty, seed, eval_problems, instruction, system_prompt, date and max_prompt_tokens. Raises
    ConfigError where the difficulty has fewer problems than are held out or a prompt is too long.
    """

    def __init__(self, config, tokenizer):
        self.config, self.tokenizer, self.notes, self.verdicts = config, tokenizer, {}, Counter()
        shown = [draw(random.Random(f"example {i}"), config.difficulty, heldout=False) for i in range(EXAMPLES)]
        self._examples = [(text, worked(calculation)) for text, calculation in shown]
        self.verifier = Verifier()
        available = 50 * 20**config.difficulty  # some of them: drawing stays quick
        if config.eval_problems > available:
            raise ConfigError(
                f"eval_problems={config.eval_problems} must be at most {available} at difficulty={config.difficulty}"
            )
        found: dict[str, Problem] = {}
        rng = random.Random("held-out")
        while len(found) < config.eval_problems:
            text, calculation = draw(rng, config.difficulty, heldout=True)
            found.setdefault(text, self._problem(text, calculation))
        self.heldout = tuple(found.values())

    def train(self, position: int) -> Problem:
        rng = random.Random(f"{self.config.seed}:{position}")
        return self._problem(*draw(rng, self.config.difficulty, heldout=False))

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        verdicts = self.verifier.verify_many([(p.answer, c) for p, c in zip(problems, completions, strict=True)])
        self.verdicts.update(verdicts)
        return [float(v == Verdict.correct) for v in verdicts]

    def close(self) -> None:
        """End the verifier's workers."""
        self.verifier.close()

    def _problem(self, text: str, calculation: str) -> Problem:
        rendered = prompt(
            text,
            self.tokenizer,
            self.config.date,
            self.config.instruction,
            self.config.system_prompt,
            self._examples,
        )
        tokens = len(self.tokenizer(rendered, add_special_tokens=False)["input_ids"])
        if tokens > self.config.max_prompt_tokens:
            raise ConfigError(
                f"max_prompt_tokens={self.config.max_prompt_tokens} must be at least {tokens} for: {text}"
            )
        return Problem(text, rendered, str(steps_of(calculation)[-1][-1]))


def draw(rng: random.Random, difficulty: int, heldout: bool) -> tuple[str, str]:
    """(text, calculation) of a random problem from one side of the split; no value on the way is below 1."""
    while True:
        calculation = str(rng.randint(2, LARGEST))
        calculation += "".join(f"{rng.choice('+-')}{rng.randint(2, LARGEST)}" for _ in range(difficulty))
        if is_heldout(calculation) == heldout and all(value > 0 for *_, value in steps_of(calculation)):
            return _told(rng, calculation), calculation


def is_heldout(calculation: str) -> bool:
    return zlib.crc32(calculation.encode()) % _HELDOUT_SHARE == 0


def steps_of(calculation: str) -> list[tuple[int, str, int, int]]:
    """The steps of "9+4-6" from left to right: (9, "+", 4, 13), (13, "-", 6, 7)."""
    first, *rest = calculation.replace("+", " + ").replace("-", " - ").split()
    value, steps = int(first), []
    for sign, number in zip(rest[::2], map(int, rest[1::2]), strict=True):
        result = value + number if sign == "+" else value - number
        steps.append((value, sign, number, result))
        value = result
    return steps


def worked(calculation: str) -> str:
    """A completion in the task's format."""
    steps = steps_of(calculation)
    sums = ", ".join(f"{a} {sign} {b} = {result}" for a, sign, b, result in steps)
    return f"{sums}. The answer is \\boxed{{{steps[-1][-1]}}}."


def _told(rng: random.Random, calculation: str) -> str:
    """The calculation as a story of one person and things."""
    (name, he), (other, _) = rng.sample(_PEOPLE, 2)
    things, others = rng.sample(_THINGS, 2)
    words = {"name": name, "he": he, "other": other, "things": things, "others": others}
    steps = steps_of(calculation)
    story = [(rng.choice(_START), steps[0][0])] + [(rng.choice(_EVENTS[sign]), number) for _, sign, number, _ in steps]
    if len(steps) > 2:  # last, where it leaves no doubt about what the numbers before it count
        story.append((rng.choice(_ASIDE), rng.randint(2, LARGEST)))
    return " ".join([s.format(n=n, **words) for s, n in story] + [rng.choice(_QUESTION).format(**words)])
