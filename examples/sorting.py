"""A task of your own: sort the letters of a word. Notebook 9 explains it line by line.

PYTHONPATH=examples python -m dgpo train tiny task=sorting:Sorting difficulty=5 run_dir=runs/sorting
"""

import random
from collections import Counter

from dgpo.tasks import Problem, Task
from dgpo.tasks.generated import is_heldout, word_tokenizer

LETTERS = "abcdefghij"


class Sorting(Task):
    """Problems of `difficulty` + 1 letters, such as `gdab=` with the answer `abdg`."""

    def __init__(self, config, tokenizer):
        self.config, self.notes, self.verdicts = config, {}, Counter()
        rng = random.Random("held-out")
        self.heldout = [self.problem(rng, heldout=True) for _ in range(config.eval_problems)]

    def problem(self, rng, heldout):
        while True:
            letters = "".join(rng.choices(LETTERS, k=self.config.difficulty + 1))
            if is_heldout(letters) == heldout:
                return Problem(letters, letters + "=", "".join(sorted(letters)))

    def train(self, position):
        return self.problem(random.Random(f"{self.config.seed}:{position}"), heldout=False)

    def rewards(self, problems, completions):
        right = [text == problem.answer for problem, text in zip(problems, completions, strict=True)]
        self.verdicts.update("correct" if r else "wrong" for r in right)
        return [float(r) for r in right]

    # For model=tiny alone: a tokenizer, and worked examples for the embedded policy's warm-up, some of them wrong.

    @staticmethod
    def tokenizer():
        return word_tokenizer([*LETTERS, "="], ".")

    @staticmethod
    def example(rng, settings):
        letters = rng.choices(LETTERS, k=rng.randint(2, settings.max_difficulty + 1))
        wrong = settings.step_error_rate / 4
        answer = [rng.choice(LETTERS) if rng.random() < wrong else letter for letter in sorted(letters)]
        return "".join(letters) + "=", "".join(answer)
