"""Where problems come from: `chain`, `countdown` and `words` are generated, `math` reads files, or module:Class."""

from typing import TYPE_CHECKING, Any, cast

from dgpo.config import Config, ConfigError
from dgpo.errors import Explained, one_line, own_code
from dgpo.plain import locate
from dgpo.settings import GENERATED, WORDS
from dgpo.tasks.base import Problem, Task

if TYPE_CHECKING:
    from dgpo.tasks.generated import GeneratedTask

_CLASSES = {**GENERATED, WORDS: "dgpo.tasks.words:WordTask"}

__all__ = ["Problem", "Task", "generated_class", "make", "task_class"]


def make(config: Config, tokenizer) -> Task:
    """The task that a config asks for. Raises ConfigError when its limits leave no room for a problem or an answer."""
    if config.task == "math":
        return _from_file(config, tokenizer)
    if ":" in config.task:
        return _own(config, tokenizer)
    if config.task not in GENERATED:
        return task_class(config.task)(config, tokenizer)
    made = generated_class(config.task)
    made.check_room(config, "max_prompt_tokens", made.prompt_tokens(config.difficulty))
    made.check_room(config, "max_new_tokens", made.completion_tokens(config.difficulty))
    return made(config.difficulty, config.seed, config.eval_problems)


def _own(config: Config, tokenizer) -> Task:
    """A task module:Class, tried once: what it lacks is an error before anything is sampled."""
    made = task_class(config.task)
    try:
        task = made(config, tokenizer)
        problems = [*task.heldout, task.train(0)]
    except Explained:
        raise
    except Exception as error:
        said, place = one_line(error), own_code(error)
        raise ConfigError(f"task={config.task!r} cannot be made: {said}" + (f" ({place})" if place else "")) from error
    if strange := [p for p in problems if not isinstance(p, Problem)]:
        raise ConfigError(
            f"task={config.task!r}: {strange[0]!r} is no dgpo.tasks.Problem; heldout and train give those"
        )
    if len(problems) < 2:
        raise ConfigError(f"task={config.task!r} has no held-out problems: its `heldout` needs at least one")
    return task


def generated_class(name: str) -> "type[GeneratedTask]":
    """The class of a generated task, whose name is in GENERATED."""
    return cast("type[GeneratedTask]", task_class(name))


def task_class(name: str) -> type[Task]:
    """The class of a built-in task or of module:Class. Raises ConfigError where it is no Task."""
    try:
        found = locate(_CLASSES.get(name, name))
    except ValueError as error:
        raise ConfigError(f"task={name!r}: {error}") from None
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError(f"task={name!r} must be a class derived from dgpo.tasks.Task")
    if absent := [method for method in ("train", "rewards") if getattr(found, method) is getattr(Task, method)]:
        raise ConfigError(f"task={name!r} has no method {absent[0]!r}, which dgpo.tasks.Task leaves to it")
    return found


def _from_file(config: Config, tokenizer) -> Task:
    assert config.data is not None  # config_rules
    from dgpo.tasks.prompts import read_examples

    settings: dict[str, Any] = {
        "problem_field": config.problem_field,
        "answer_field": config.answer_field,
        "encoding": config.encoding,
        "skip_bad_rows": config.skip_bad_rows,
        "max_prompt_tokens": config.max_prompt_tokens,
        "seed": config.seed,
        "eval_data": config.eval_data,
        "heldout": config.eval_problems,
        "drop_contaminated": config.drop_contaminated,
        "date": config.date,
        "instruction": config.instruction,
        "system_prompt": config.system_prompt,
        "examples": read_examples(config.examples, config.problem_field, config.answer_field, config.encoding),
    }
    if not config.reward:
        from dgpo.tasks.math import MathTask

        return MathTask(config.data, tokenizer, **settings)
    from dgpo.tasks.custom import RewardTask
    from dgpo.tasks.rewards import Rewards

    rewards = Rewards(config.reward, config.reward_weights, config.reward_timeout)
    try:
        return RewardTask(config.data, tokenizer, rewards=rewards, threshold=config.right_above, **settings)
    except BaseException:
        rewards.close()
        raise
