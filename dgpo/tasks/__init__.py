"""Where problems and rewards come from: `chain` is generated, `math` reads files of problems."""

from dgpo.config import Config, ConfigError
from dgpo.tasks.base import Problem, Task

__all__ = ["Problem", "Task", "make"]


def make(config: Config, tokenizer) -> Task:
    """The task that a config asks for. Raises ConfigError when its limits leave no room for a problem or an answer."""
    if config.task == "math":
        from dgpo.tasks.math import MathTask

        return MathTask(
            config.data,
            tokenizer,
            problem_field=config.problem_field,
            answer_field=config.answer_field,
            encoding=config.encoding,
            skip_bad_rows=config.skip_bad_rows,
            max_prompt_tokens=config.max_prompt_tokens,
            seed=config.seed,
            eval_data=config.eval_data,
            heldout=config.eval_problems,
            drop_contaminated=config.drop_contaminated,
            date=config.date,
        )
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
