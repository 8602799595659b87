"""Every setting of an evaluation, typed and described, separate from those of training."""

from functools import partial
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from dgpo.config import PolicySettings
from dgpo.errors import ConfigError
from dgpo.plain import changes
from dgpo.settings import GENERATED, WORDS, Above0, Count, PathText, Positive, nested, refusal, setting, unknown

ACCEPTABLE = ("code",)  # two policies, or two sets of problems, are two evaluations

# Besides the policy, the problems and the limit of tokens, these decide a score, the last three where rewards judge.
SAMPLING = ("temperature", "top_p", "dtype", "head_dtype", "rollout", "reward", "reward_weights", "right_above")

_ELSEWHERE = {
    "task": "benchmarks=[module:Class]",
    "data": "data_dir=FOLDER and benchmarks=[NAME] for the file NAME in it",
}

_run, _task, _policy, _rollout, _scores = (
    partial(setting, group=group) for group in ("run", "task", "policy", "rollout", "scores")
)


class EvalConfig(PolicySettings):
    """One evaluation. The sampling defaults are those that R1-Distill is published with."""

    eval_dir: PathText = _run("runs/eval", description="folder of the evaluation", resume="free")
    accept_changes: list[Literal["code"]] = _run(
        [], description="[code] continues with another version of dgpo", resume="free"
    )

    benchmarks: list[str] = _task(
        ["chain"],
        description="`chain`, `countdown`, `words`, files in data_dir (math500) or short names (aime24), module:Class",
        min_length=1,
    )
    data_dir: PathText | None = _task(None, description="folder of the benchmarks' files", resume="content")
    limit: Count = _task(0, description="first problems of each file; 0 for all", unit="problems")
    generated_problems: Positive = _task(
        128, description="held-out problems of a generated task or module:Class", unit="problems"
    )

    rollout: Literal["auto", "transformers", "vllm"] = _rollout(  # pyright: ignore[reportIncompatibleVariableOverride]
        "auto", description="the sampler; `auto` takes vLLM on a GPU where it is installed"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = _policy(  # pyright: ignore[reportIncompatibleVariableOverride]
        "auto", description="precision of weights and activations; `auto` takes the checkpoint's on a GPU, else float32"
    )
    n: Positive = _rollout(
        16, description="completions of each problem; a larger n continues an evaluation", unit="completions"
    )
    temperature: Above0 = _rollout(0.6, description="of the samples")
    top_p: Annotated[float, Field(gt=0, le=1)] = _rollout(0.95, description="nucleus of the samples")
    max_new_tokens: Positive = _rollout(32768, description="longest completion", unit="tokens")
    generated_max_new_tokens: Positive = _rollout(
        40, description="longest completion in generated tasks and module:Class", unit="tokens"
    )
    chunk_rows: Positive = _run(1024, description="completions in one file: what a kill can lose", unit="completions")

    k: list[Positive] = _scores(
        [], description="the k of pass@k and maj@k in the tables; none: powers of two and n", resume="free"
    )

    @property
    def task(self) -> str:
        """What the embedded policy is warmed up for (model='tiny'): the one benchmark."""
        return self.benchmarks[0]


def load(**settings: Any) -> EvalConfig:
    """A validated EvalConfig. Raises ConfigError for an unknown setting and for values that are not allowed."""
    known, settings = EvalConfig.model_fields, nested(settings)
    for name in settings:
        if name in _ELSEWHERE:
            raise ConfigError(f"{name}={settings[name]!r} is of training; an evaluation has {_ELSEWHERE[name]}")
        if name not in known:
            raise ConfigError(unknown(name, settings[name], known))
    try:
        config = EvalConfig(**settings)
    except pydantic.ValidationError as error:
        raise refusal(error) from None
    if beyond := [k for k in config.k if k > config.n]:
        raise ConfigError(f"k={config.k}: pass@k and maj@k need k ≤ n, and {beyond[0]} > n={config.n}")
    others = [name for name in config.benchmarks if name == WORDS or not makes_its_own(name)]
    if config.model == "tiny" and others:
        raise ConfigError(
            f"benchmark {others[0]!r} needs model=FOLDER; model='tiny' knows only the tokens of "
            f"{' and '.join(GENERATED)}"
        )
    if config.model == "tiny" and len({*config.benchmarks}) > 1:
        raise ConfigError(
            f"benchmarks={config.benchmarks}: model='tiny' is warmed up for one of them; evaluate each apart"
        )
    if config.examples and all(map(makes_its_own, config.benchmarks)):
        raise ConfigError(f"examples={config.examples!r} needs a benchmark that is a file, whose problems it precedes")
    if config.reward:
        from dgpo.config_rules import check_rewards

        check_rewards(config)
        if own := [name for name in config.benchmarks if makes_its_own(name)]:
            raise ConfigError(f"reward={config.reward} judges files of problems; {own[0]!r} judges its own")
    if len(set(config.benchmarks)) < len(config.benchmarks):
        raise ConfigError(f"benchmarks={config.benchmarks}: one of them is named twice")
    return config


def makes_its_own(benchmark: str) -> bool:
    """Whether a benchmark is a task that makes and judges its problems, a generated one or module:Class; not a file."""
    return benchmark in (*GENERATED, WORDS) or ":" in benchmark


def differences(before: EvalConfig, now: EvalConfig) -> list[str]:
    """The settings that keep an evaluation from being resumed, as `name: before → now`.

    The policy and the problems are compared by content; n may grow; a date may be added.
    """
    free = EvalConfig.resumable("free", "content", "rounding") | {"tiny"}
    free |= {"n"} if now.n > before.n else set()
    free |= {"date"} if None in (before.date, now.date) else set()
    return changes(before.model_dump(exclude=free), now.model_dump())
