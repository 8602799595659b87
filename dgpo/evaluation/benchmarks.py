"""Benchmarks by name, files of problems in a folder or held-out problems of generated tasks, and their judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dgpo import tasks
from dgpo.config import ConfigError, PolicySettings, make
from dgpo.data.files import FORMATS, DataError, answer_text, checked_rows
from dgpo.data.messages import messages_of
from dgpo.evaluation.settings import EvalConfig, makes_its_own
from dgpo.files import file_hash
from dgpo.run.identity import of_problems
from dgpo.settings import GENERATED, WORDS
from dgpo.tasks import generated_class
from dgpo.tasks.base import Problem, Task
from dgpo.tasks.custom import check_columns, judged
from dgpo.tasks.prompts import prompt, read_examples
from dgpo.tasks.rewards import Rewards
from dgpo.verifier import Verdict, Verifier, final_answer

SHORT_NAMES = {
    "aime24": "aime2024",
    "aime25": "aime2025",
    "amc23": "amc2023",
    "minerva": "minerva_math",
    "olympiadbench": "olympiadbench_maths_en",
    "gsm8k": "gsm8k_test",
}
_LONGEST_PROMPT = 1 << 20  # tokens: the model's positions are the limit
_MAX_KEPT = 1_000  # characters of an extracted answer


@dataclass(frozen=True)
class Benchmark:
    """`sha256` is of the file, or of the generated problems; `limit` bounds the tokens of a completion.

    task    of a benchmark module:Class, which judges; None where the verifier does, or a generated task's own judge
    """

    name: str
    sha256: str
    problems: tuple[Problem, ...]
    limit: int
    task: Task | None = None


def load(name: str, config: EvalConfig, tokenizer) -> Benchmark:
    """A benchmark with prompts for this tokenizer.

    Raises ConfigError for an unknown name and for limits too small for an answer, DataError for rows without the
    fields.
    """
    if name in GENERATED:
        return _generated(name, config)
    if makes_its_own(name):
        return _own(name, config, tokenizer)
    path = find(name, config.data_dir)
    fields = config.problem_field, config.answer_field
    examples = read_examples(config.examples, *fields, config.encoding)
    problems = []
    for (number, row, _), fault in checked_rows(path, config.encoding, *fields, needs_answer=not config.reward):
        if fault:
            raise DataError(f"{path}, line {number}: {fault}")
        text, answer = row[fields[0]], answer_text(row.get(fields[1], ""))
        rendered = prompt(text, tokenizer, config.date, config.instruction, config.system_prompt, examples)
        problems.append(Problem(str(row.get("id", f"{name}:{number}")), rendered, answer, row, messages_of(text)))
        if len(problems) == config.limit:
            break
    if not problems:
        raise DataError(f"{path}: the file is empty")
    return Benchmark(name, file_hash(path), tuple(problems), config.max_new_tokens)


def find(name: str, data_dir: str | None) -> Path:
    """The file of a benchmark. Raises ConfigError that lists those found."""
    folder = Path(data_dir) if data_dir else None
    if folder and not folder.is_dir():
        raise ConfigError(f"data_dir={data_dir!r} is not a folder")
    files = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in FORMATS} if folder else {}
    path = files.get(name) or files.get(SHORT_NAMES.get(name, ""))
    if path is None:
        short = {long: f" ({short})" for short, long in SHORT_NAMES.items()}
        found = [*GENERATED, WORDS, *(f"{stem}{short.get(stem, '')}" for stem in files)]
        where = f"in data_dir={data_dir!r}" if folder else "without data_dir=FOLDER"
        raise ConfigError(f"unknown benchmark {name!r}; {where} there are: {', '.join(found)}")
    return path


def limit_setting(name: str) -> str:
    """The setting that limits the completions of a benchmark."""
    return "generated_max_new_tokens" if makes_its_own(name) else "max_new_tokens"


def _generated(name: str, config: EvalConfig) -> Benchmark:
    task = generated_class(name)
    task.check_room(config, limit_setting(name), task.completion_tokens(config.difficulty))
    problems = tuple(task(config.difficulty, 0, config.generated_problems).heldout)
    return Benchmark(name, of_problems(problems), problems, config.generated_max_new_tokens)


def _own(name: str, config: EvalConfig, tokenizer) -> Benchmark:
    """The held-out problems of `words` or a task of one's own, which is made with the settings of a training."""
    its_own = {"examples", "overwrite", "dtype", "rollout"}
    shared = config.model_dump(include={*PolicySettings.model_fields} - its_own)
    limits = {"max_new_tokens": config.generated_max_new_tokens, "max_prompt_tokens": _LONGEST_PROMPT}
    made = make({**shared, **limits, "task": name, "eval_problems": config.generated_problems})
    try:
        task = tasks.make(made, tokenizer)
    except ConfigError as error:
        raise ConfigError(str(error).replace("task=", "benchmark ", 1)) from None
    problems = tuple(task.heldout)
    judge = None if name == WORDS else task  # the verifier judges words, and tells no answer from a wrong one
    return Benchmark(name, of_problems(problems), problems, config.generated_max_new_tokens, judge)


class Judge:
    """Verdicts and extracted answers as in training: tasks judge their own, rewards or else the verifier judge files.

    A reward of at least `right_above` is correct. Raises ConfigError for rewards that do not fit the columns.
    """

    def __init__(self, config: EvalConfig, loaded: Sequence[Benchmark]):
        self._verifier: Verifier | None = None
        self._threshold = config.right_above
        self._tasks = {b.name: b.task for b in loaded if b.task}
        self._rewards = None
        if config.reward:
            self._rewards = Rewards(config.reward, config.reward_weights, config.reward_timeout)
            try:
                for benchmark in loaded:
                    check_columns(self._rewards, benchmark.problems, benchmark.name)
            except BaseException:
                self._rewards.close()
                raise

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for judge in (self._verifier, self._rewards, *self._tasks.values()):
            if judge is not None:
                judge.close()

    def __call__(
        self, benchmark: str, problems: Sequence[Problem], texts: Sequence[str], tokens: Sequence[Sequence[int]]
    ) -> tuple[list[str], list[str | None]]:
        """(verdicts, answers) of completions; an answer is None where no box is closed, with rewards the whole text.

        A reward that failed is wrong.
        """
        pairs = [(p.answer, text) for p, text in zip(problems, texts, strict=True)]
        if self._rewards or benchmark in self._tasks:
            if self._rewards:
                rewards = judged(self._rewards, problems, texts, tokens)
            else:
                rewards = self._tasks[benchmark].score(problems, texts, tokens)
            right = [reward is not None and reward >= self._threshold for reward in rewards]
            found = [Verdict.correct if is_right else Verdict.wrong for is_right in right]
            return [v.value for v in found], [(final_answer(text) or text.strip())[:_MAX_KEPT] for text in texts]
        if benchmark in GENERATED:
            judge = generated_class(benchmark).judge
            found, answers = zip(*(judge(reference, text) for reference, text in pairs), strict=True)
        else:
            self._verifier = self._verifier or Verifier()
            answers = [final_answer(text) for _, text in pairs]
            found = self._verifier.verify_many(pairs)
        return [v.value for v in found], [a if a is None else a[:_MAX_KEPT] for a in answers]
