"""Every setting of an evaluation, typed and validated. They are separate from training's."""

from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

from dgpo.config import VLLM, TinyPolicy, changes
from dgpo.errors import ConfigError
from dgpo.settings import Above0, Count, Day, Encoding, PathText, Positive, Seed, Settings, Threads, refusal, unknown

ACCEPTABLE = ("code",)  # two policies, or two sets of problems, are two evaluations


class EvalConfig(Settings):
    """One evaluation. The sampling defaults are those that R1-Distill is published with.

    n                     completions of each problem; an evaluation that is there may be continued with a larger one
    k                     the k of pass@k and maj@k in the tables; none means powers of two and n
    benchmarks            `chain`, and names of files in `data_dir` (`math500`) or their short names (`aime24`)
    limit                 the first problems of each file; 0 for all
    encoding              of text files of problems that are not UTF-8
    date                  what a chat template gets as today's; None means the day on which the evaluation began
    self_check            "refuse" ends it at the start where log π depends on the batch or on the sampler's cache
                          (dgpo.rollout.selfcheck); "warn" prints that and continues
    chain_problems        held-out chains, of `difficulty`; `chain_max_new_tokens` is their limit
    chunk_rows            completions in one file: what a kill can lose
    accept_changes        [code] continues with another version of dgpo; by default that is refused
    """

    eval_dir: PathText = "runs/eval"
    overwrite: bool = False
    accept_changes: list[Literal[*ACCEPTABLE]] = []

    model: PathText = "tiny"
    tiny: TinyPolicy = TinyPolicy()
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    trust_remote_code: bool = False
    self_check: Literal["refuse", "warn"] = "refuse"
    threads: Threads = 0

    benchmarks: list[str] = Field(default=["chain"], min_length=1)
    data_dir: PathText | None = None
    problem_field: str = "problem"
    answer_field: str = "answer"
    encoding: Encoding = "utf-8"
    date: Day | None = None
    limit: Count = 0
    difficulty: Positive = 4
    chain_problems: Positive = 128

    n: Positive = 16
    k: list[Positive] = []
    seed: Seed = 0
    temperature: Above0 = 0.6
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.95
    max_new_tokens: Positive = 32768
    chain_max_new_tokens: Positive = 40

    rollout: Literal["transformers", "vllm"] = "transformers"
    vllm: VLLM = VLLM()
    rollout_rows: Positive = 256
    chunk_rows: Positive = 1024


# What may differ when an evaluation goes on: the policy and the problems are compared by their content.
CONTINUABLE = (
    "eval_dir",
    "overwrite",
    "accept_changes",
    "self_check",
    "model",
    "tiny",
    "threads",
    "data_dir",
    "k",
    "rollout_rows",
    "vllm",
)

# What else than the policy and the problems decides a score, with the limit of tokens.
SAMPLING = ("temperature", "top_p", "dtype", "rollout")


def load(**settings: Any) -> EvalConfig:
    """A validated EvalConfig. Raises ConfigError for an unknown setting and for values that are not allowed."""
    known = EvalConfig.model_fields
    for name in settings:
        if name not in known:
            raise ConfigError(unknown(name, settings[name], known))
    try:
        config = EvalConfig(**settings)
    except pydantic.ValidationError as error:
        raise refusal(error) from None
    if beyond := [k for k in config.k if k > config.n]:
        raise ConfigError(f"k={config.k}: pass@k and maj@k need k ≤ n, and {beyond[0]} > n={config.n}")
    if config.model == "tiny" and (files := [name for name in config.benchmarks if name != "chain"]):
        raise ConfigError(f"benchmark {files[0]!r} needs model=FOLDER; model='tiny' knows only the tokens of 'chain'")
    if len(set(config.benchmarks)) < len(config.benchmarks):
        raise ConfigError(f"benchmarks={config.benchmarks}: one of them is named twice")
    return config


def differences(before: EvalConfig, now: EvalConfig) -> list[str]:
    """The settings in which an evaluation may not go on, as `name: before → now`; n may grow."""
    left, right = before.model_dump(), now.model_dump()
    free = {*CONTINUABLE, *(["n"] if now.n > before.n else []), *(["date"] if None in (before.date, now.date) else [])}
    return changes({k: v for k, v in left.items() if k not in free}, right)
