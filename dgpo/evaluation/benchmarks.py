"""Benchmarks by name, files of problems in a folder or held-out problems of generated tasks, and their judge."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dgpo.config import ConfigError
from dgpo.data.files import FORMATS, DataError, answer_text, checked_rows
from dgpo.evaluation.settings import EvalConfig
from dgpo.files import file_hash
from dgpo.run.identity import of_problems
from dgpo.settings import GENERATED
from dgpo.tasks import generated_class
from dgpo.tasks.base import Problem
from dgpo.tasks.prompts import prompt, read_examples
from dgpo.verifier import Verifier, final_answer

SHORT_NAMES = {
    "aime24": "aime2024",
    "aime25": "aime2025",
    "amc23": "amc2023",
    "minerva": "minerva_math",
    "olympiadbench": "olympiadbench_maths_en",
    "gsm8k": "gsm8k_test",
}
_MAX_KEPT = 1_000  # characters of an extracted answer


@dataclass(frozen=True)
class Benchmark:
    """`sha256` is of the file, or of the generated problems; `limit` bounds the tokens of a completion."""

    name: str
    sha256: str
    problems: tuple[Problem, ...]
    limit: int


def load(name: str, config: EvalConfig, tokenizer) -> Benchmark:
    """A benchmark with prompts for this tokenizer.

    Raises ConfigError for an unknown name and for limits too small for an answer, DataError for rows without the
    fields.
    """
    if name in GENERATED:
        return _generated(name, config)
    path = find(name, config.data_dir)
    examples = read_examples(config.examples, config.problem_field, config.answer_field, config.encoding)
    problems = []
    for (number, row, _), fault in checked_rows(path, config.encoding, config.problem_field, config.answer_field):
        if fault:
            raise DataError(f"{path}, line {number}: {fault}")
        text, answer = row[config.problem_field], answer_text(row[config.answer_field])
        rendered = prompt(text, tokenizer, config.date, config.instruction, config.system_prompt, examples)
        problems.append(Problem(str(row.get("id", f"{name}:{number}")), rendered, answer))
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
        found = [*GENERATED, *(f"{stem}{short.get(stem, '')}" for stem in files)]
        where = f"in data_dir={data_dir!r}" if folder else "without data_dir=FOLDER"
        raise ConfigError(f"unknown benchmark {name!r}; {where} there are: {', '.join(found)}")
    return path


def limit_setting(name: str) -> str:
    """The setting that limits the completions of a benchmark."""
    return "generated_max_new_tokens" if name in GENERATED else "max_new_tokens"


def _generated(name: str, config: EvalConfig) -> Benchmark:
    task = generated_class(name)
    task.check_room(config, limit_setting(name), task.completion_tokens(config.difficulty))
    problems = tuple(task(config.difficulty, 0, config.generated_problems).heldout)
    return Benchmark(name, of_problems(problems), problems, config.generated_max_new_tokens)


class Judge:
    """Verdicts and extracted answers as in training: generated tasks judge their own, the verifier judges files."""

    def __init__(self):
        self._verifier: Verifier | None = None

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._verifier is not None:
            self._verifier.close()

    def __call__(self, benchmark: str, pairs: Sequence[tuple[str, str]]) -> tuple[list[str], list[str | None]]:
        """(verdicts, answers) of (reference, completion) pairs; an answer is None where no box is closed."""
        if benchmark in GENERATED:
            judge = generated_class(benchmark).judge
            found, answers = zip(*(judge(reference, text) for reference, text in pairs), strict=True)
        else:
            self._verifier = self._verifier or Verifier()
            answers = [final_answer(text) for _, text in pairs]
            found = self._verifier.verify_many(pairs)
        return [v.value for v in found], [a if a is None else a[:_MAX_KEPT] for a in answers]
