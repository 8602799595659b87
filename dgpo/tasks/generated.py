"""The common part of tasks with generated problems: the stream, the held-out set and the split between them."""

import random
import zlib
from collections import Counter
from collections.abc import Sequence

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from dgpo.config import ConfigError
from dgpo.tasks.base import Problem, Task
from dgpo.verifier import Verdict

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
HELDOUT_SHARE = 5  # every fifth problem, by checksum


class GeneratedTask(Task):
    """Problems of one difficulty; the reward is 1 for a correct answer, else 0.

    The training stream depends on (`seed`, position); the held-out problems on neither, so all runs share them.

    recipe    of the warm-up's examples, in the key of the cached policy: change it when `example` does
    """

    recipe: str

    def __init__(self, difficulty: int, seed: int, heldout: int):
        self.difficulty, self.seed, self.notes, self.verdicts = difficulty, seed, {}, Counter()
        if heldout > (available := self.available(difficulty)):
            raise ConfigError(f"eval_problems={heldout} must be at most {available} at difficulty={difficulty}")
        found: dict[str, Problem] = {}
        rng = random.Random("held-out")
        while len(found) < heldout:
            problem = self.draw(rng, difficulty, heldout=True)
            found[problem.id] = problem
        self.heldout = tuple(found.values())

    def train(self, position: int) -> Problem:
        return self.draw(random.Random(f"{self.seed}:{position}"), self.difficulty, heldout=False)

    def rewards(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        found = [self.judge(p.answer, c)[0] for p, c in zip(problems, completions, strict=True)]
        self.verdicts.update(verdict.value for verdict in found)
        return [float(verdict is Verdict.correct) for verdict in found]

    @staticmethod
    def check_room(config, limit: str, needed: int) -> None:
        """Raise ConfigError where the setting `limit` of a config is below the tokens that its difficulty needs."""
        if (given := getattr(config, limit)) < needed:
            raise ConfigError(
                f"{limit}={given} must be at least {needed}: a problem of difficulty={config.difficulty} needs "
                f"{needed} tokens"
            )

    @staticmethod
    def draw(rng: random.Random, difficulty: int, heldout: bool) -> Problem:
        """A random problem from one side of the split."""
        raise NotImplementedError

    @staticmethod
    def judge(reference: str, completion: str) -> tuple[Verdict, str | None]:
        """What a completion is, given a problem's `answer`, and what it answered, None without a closed box."""
        raise NotImplementedError

    @staticmethod
    def available(difficulty: int) -> int:
        """Most held-out problems; below the number that there are, so that drawing stays quick."""
        raise NotImplementedError

    @staticmethod
    def prompt_tokens(difficulty: int) -> int:
        """Tokens of the longest prompt."""
        raise NotImplementedError

    @staticmethod
    def completion_tokens(difficulty: int) -> int:
        """Tokens of the longest worked example, the end of sequence included."""
        raise NotImplementedError

    @staticmethod
    def tokenizer() -> PreTrainedTokenizerFast:
        """The words of the embedded policy."""
        raise NotImplementedError

    @staticmethod
    def example(rng: random.Random, settings) -> tuple[str, str]:
        """A prompt and its worked completion, for the warm-up of the embedded policy (settings of `tiny`)."""
        raise NotImplementedError


def is_heldout(text: str) -> bool:
    """The side of the split that the problem written as `text` is on."""
    return zlib.crc32(text.encode()) % HELDOUT_SHARE == 0


def word_tokenizer(words: Sequence[str], pattern: str) -> PreTrainedTokenizerFast:
    """A tokenizer of exactly `words`, after PAD, EOS and UNK; the expression `pattern` cuts a text into them."""
    words = (PAD, EOS, UNK, *words)
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token=UNK))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, eos_token=EOS, unk_token=UNK, padding_side="left"
    )
