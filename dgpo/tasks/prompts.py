"""The text that a policy reads for a problem. Training and evaluation render it here and nowhere else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime
from types import SimpleNamespace
from typing import Any

from transformers.utils import chat_template_utils

from dgpo.config import INSTRUCTION
from dgpo.data.files import DataError, is_empty, read_rows
from dgpo.errors import ConfigError, first_line


def prompt(
    problem: str | Sequence[dict],
    tokenizer,
    day: str | None = None,
    instruction: str = INSTRUCTION,
    system: str | None = None,
    examples: Sequence[tuple[str, str]] = (),
) -> str:
    """The problem in the checkpoint's own chat template; plainly, with `<think>` opened, if it has none.

    A problem that is a list of messages {role, content} goes through the template as it stands, with nothing around it.
    `system` comes first, as a system message where the template has them; then each (problem, completion) of
    `examples`, as earlier turns of the chat; `instruction` follows the problem. A template that writes the date gets
    `day`, an ISO date (None: today). Raises ConfigError that names the model for a template that fails, renders nothing
    or leaves out the problem, and for messages without a template.
    """
    if not isinstance(problem, str):
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(f"{_whose(tokenizer)} is needed for problems that are messages, and it has none")
        unused = {"system_prompt": system, "instruction": instruction if instruction != INSTRUCTION else ""}
        given = [f"{name}={value!r}" for name, value in unused.items() if value] + ["examples"] * bool(examples)
        if given:
            what = "has no effect on problems that are messages: leave it out, or write it there"
            raise ConfigError(f"{given[0]} {what}")
        return _rendered(problem, tokenizer, day)
    text = problem.strip() + instruction
    if not getattr(tokenizer, "chat_template", None):
        ids = tokenizer("x").input_ids
        opening = tokenizer.bos_token if ids and ids[0] == tokenizer.bos_token_id else ""  # prompts are encoded as is
        before = f"{system}\n" if system else ""
        before += "".join(f"{shown}{instruction}\n{answer}\n\n" for shown, answer in examples)
        return f"{opening}{before}{text}\n<think>\n"
    messages = [{"role": "system", "content": system}] if system else []
    for shown, answer in examples:
        messages += [{"role": "user", "content": shown + instruction}, {"role": "assistant", "content": answer}]
    return _rendered([*messages, {"role": "user", "content": text}], tokenizer, day, problem)


def read_examples(
    path: str | None, problem_field: str, answer_field: str, encoding: str = "utf-8"
) -> tuple[tuple[str, str], ...]:
    """The (problem, completion) pairs in a file of worked examples, as they are written; none without a file.

    Raises DataError for a row that lacks either text and for an empty file.
    """
    pairs: list[tuple[str, str]] = []
    for number, row, fault in read_rows(path, encoding) if path else ():
        bad = [field for field in (problem_field, answer_field) if not _is_written(row.get(field))]
        if bad and not fault:
            fault = f"field {bad[0]!r} must be a text; the row has {', '.join(map(repr, row)) or 'none'}"
        if fault:
            raise DataError(f"examples={path!r}, line {number}: {fault}")
        pairs.append((row[problem_field].strip(), row[answer_field]))
    if path and not pairs:
        raise DataError(f"examples={path!r}: the file is empty")
    return tuple(pairs)


def _is_written(value: Any) -> bool:
    return isinstance(value, str) and not is_empty(value)


def _rendered(messages: Sequence[dict], tokenizer, day: str | None, problem: str = "") -> str:
    """Messages in the chat template, which has to write `problem`, by default the last of them."""
    try:
        with _today(day) as today:
            rendered = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **_date_string(tokenizer, today)
            )
    except Exception as error:  # jinja2's own, and any that an expression in a template leads to
        raise ConfigError(f"{_whose(tokenizer)} fails: {type(error).__name__}: {first_line(error)}") from error
    problem = problem or messages[-1]["content"]
    if " ".join(problem.split()) not in " ".join(rendered.split()):  # a template may trim
        what = f"leaves out the problem and renders {rendered[:80]!r}" if rendered.strip() else "renders nothing"
        raise ConfigError(f"{_whose(tokenizer)} {what}")
    return rendered


@contextmanager
def _today(day: str | None) -> Iterator[datetime]:
    """Set the clock that `strftime_now` of a template reads: since transformers 5.24 none can be passed to it."""
    module: Any = chat_template_utils
    now, clock = datetime.fromisoformat(day or date.today().isoformat()), module.datetime
    module.datetime = SimpleNamespace(now=lambda: now)
    try:
        yield now
    finally:
        module.datetime = clock


def _date_string(tokenizer, today: datetime) -> dict[str, str]:
    """`date_string`, for templates without a default of their own: Llama 3.1 has a day of 2024."""
    own = "date_string is" in str(tokenizer.chat_template)
    return {} if own else {"date_string": today.strftime("%d %b %Y")}


def _whose(tokenizer) -> str:
    return f"model={tokenizer.name_or_path!r}: its chat template"
