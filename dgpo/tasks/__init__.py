"""Where problems and rewards come from: `chain` and `words` are generated, `math` reads files, or module:Class."""

from dgpo.config import Config, ConfigError
from dgpo.plain import locate
from dgpo.tasks.base import Problem, Task

__all__ = ["Problem", "Task", "make", "task_class"]


def make(config: Config, tokenizer) -> Task:
    """The task that a config asks for. Raises ConfigError when its limits leave no room for a problem or an answer."""
    if own := task_class(config):
        return own(config, tokenizer)
    if config.task == "math":
        return _from_file(config, tokenizer)
    if config.task == "words":
        from dgpo.tasks.words import WordTask

        return WordTask(config, tokenizer)
    from dgpo.tasks import chain

    for name, needed in (
        ("max_prompt_tokens", chain.prompt_tokens(config.difficulty)),
        ("max_new_tokens", chain.completion_tokens(config.difficulty)),
    ):
        if getattr(config, name) < needed:
            raise ConfigError(
                f"{name}={getattr(config, name)} must be at least {needed}: "
                f"a chain of difficulty={config.difficulty} needs {needed} tokens"
            )
    return chain.ChainTask(config.difficulty, config.seed, config.eval_problems)


def task_class(config) -> type[Task] | None:
    """The class of task=module:Class, None for the built-in ones. Raises ConfigError where it is no Task."""
    name = getattr(config, "task", "")
    if ":" not in name:
        return None
    try:
        found = locate(name)
    except ValueError as error:
        raise ConfigError(f"task={name!r}: {error}") from None
    if absent := [part for part in ("train", "rewards") if not callable(getattr(found, part, None))]:
        raise ConfigError(f"task={name!r} has no method {absent[0]!r}: see dgpo.tasks.base.Task for what a task has")
    return found


def _from_file(config: Config, tokenizer) -> Task:
    settings = {
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
