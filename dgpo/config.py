"""Every setting of a run, typed and validated; `recipes/*.yaml` are instances of `Config`.

    config = load("tiny", method="dgpo", n=2, steps=100)       a recipe by name or path, with overrides

A name that is no setting but a parameter of the chosen method (`n`, `eps_low`, ...) goes to `method_params`.
"""

import dataclasses
import importlib.util
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import torch
import yaml
from pydantic import Field

from dgpo import methods
from dgpo.errors import ConfigError
from dgpo.objective import ADVANTAGES, AGGREGATIONS, CORRECTIONS, KL_KINDS
from dgpo.plain import path_text, plain
from dgpo.settings import (
    Above0,
    AnyNumber,
    Count,
    Day,
    Encoding,
    Fraction,
    From0,
    PathText,
    Positive,
    Seed,
    Settings,
    Threads,
    refusal,
    unknown,
)
from dgpo.written import read_mapping

ACCEPTABLE = ("data", "model", "prompts", "code", "metrics")
RECIPES = Path(__file__).parent / "recipes"


class TinyPolicy(Settings):
    """The architecture and the supervised warm-up of the embedded policy (`model: tiny`).

    max_difficulty    worked examples have 1..max_difficulty operations
    slip              probability that a worked step is wrong
    steps, batch, lr  AdamW steps, examples a step, peak learning rate (linear warm-up, cosine to 0)
    init              standard deviation of the initial weights
    seed              of initialisation and examples, apart from the run's own seed
    """

    hidden: Positive = 64
    layers: Positive = 2
    heads: Positive = 4
    max_difficulty: Positive = 4
    slip: Annotated[float, Field(ge=0, le=1)] = 0.3
    steps: Annotated[Positive, Field(ge=20)] = 1800
    batch: Positive = 32
    lr: Above0 = 3e-3
    init: Above0 = 0.08
    seed: Seed = 0


class VLLM(Settings):
    """The engine of rollout='vllm', one on each rank or one on every `tensor_parallel` ranks.

    gpu_memory    share of a GPU for its weights and KV cache
    sleep         give that memory back while the policy is updated; on a CPU nothing is given back
    """

    gpu_memory: Annotated[float, Field(gt=0, lt=1)] = 0.4
    tensor_parallel: Positive = 1
    sleep: bool = True


class Config(Settings):
    """One run. Everything that changes its numbers is here.

    eval_every=0 evaluates before the first step and after the last only; checkpoint_every=0 saves after the last only.
    A micro-batch is `micro_batch` sequences or, with micro_tokens, as many as keep sequences × longest within it.
    attention="auto" takes flash-attn where it is installed and the policy is in bfloat16 on a GPU, else SDPA. Code that
    comes with a checkpoint runs only with trust_remote_code.
    self_check="refuse" ends a run at its start where log π depends on the batch or on the sampler's cache
    (dgpo.rollout.selfcheck); "warn" prints that and continues.
    threads=0 takes one thread for a policy below 20 M parameters and torch's own number above. timeout: seconds that a
    rank waits for the others, in any one place. ranks: how many there must be; 0 takes what the launcher started.
    accept_changes lists what may differ from what a resumed run was made of (dgpo.run.identity); "metrics" accepts that
    rows of its metrics are lost. By default nothing may.
    encoding is that of text files of problems that are not UTF-8. date is what a chat template gets as today's; None is
    the day on which the run began.
    keep_best keeps, beside the newest keep_checkpoints, the one of the highest avg@k.
    asynchronous samples the next step's completions in another process while this step is learned from, one step
    off-policy: old_logp is then the sampler's, so that a method's ratio carries the step, and mismatch/* measures it.
    max_mismatch stops the run where mean |log π_trainer − log π_sampler| is above it; `correction` and its limits: see
    objective.correction.
    """

    # run
    run_dir: PathText = "runs/tiny"
    seed: Seed = 0
    steps: Positive = 60
    resume: bool = False
    overwrite: bool = False
    accept_changes: list[Literal[*ACCEPTABLE]] = []

    # method: how tokens are weighed, by a key or as module:Class
    method: str = "dgpo"
    method_params: dict[str, Any] = {}
    advantage: Literal[*ADVANTAGES] = "grpo"
    zero_variance: Literal["keep", "drop", "resample"] = "keep"
    resample_rounds: Positive = 4
    aggregation: Literal["method", *AGGREGATIONS] = "method"
    kl: Literal[*KL_KINDS] = "k3"
    kl_coef: From0 = 0.0
    entropy_coef: AnyNumber = 0.0

    # policy
    model: PathText = "tiny"
    tiny: TinyPolicy = TinyPolicy()
    dtype: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = "auto"
    gradient_checkpointing: bool = False
    liger: bool = False
    trust_remote_code: bool = False
    self_check: Literal["refuse", "warn"] = "refuse"
    threads: Threads = 0

    # task
    task: Literal["chain", "math"] = "chain"
    difficulty: Positive = 4
    data: PathText | None = None
    eval_data: PathText | None = None
    problem_field: str = "problem"
    answer_field: str = "answer"
    encoding: Encoding = "utf-8"
    skip_bad_rows: bool = False
    drop_contaminated: bool = False
    date: Day | None = None
    max_prompt_tokens: Positive = 64
    max_new_tokens: Positive = 40

    # rollout
    rollout: Literal["transformers", "vllm"] = "transformers"
    vllm: VLLM = VLLM()
    prompts: Positive = 32
    completions: Positive = 8
    temperature: Above0 = 1.0
    rollout_rows: Positive = 256
    asynchronous: bool = False
    max_mismatch: Above0 | None = None
    correction: Literal[*CORRECTIONS] = "none"
    correction_cap: Above0 = 2.0
    correction_bounds: tuple[From0, Above0] = (0.5, 5.0)

    # updates
    epochs: Positive = 1
    updates: Positive = 8
    micro_batch: Positive = 32
    micro_tokens: Positive | None = None
    lr: Above0 = 3e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_updates: Count = 0
    weight_decay: From0 = 0.0
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    grad_clip: Above0 = 1.0

    # ranks
    ranks: Count = 0
    zero_stage: Annotated[int, Field(ge=1, le=3)] = 1
    offload: Literal["none", "optimizer", "optimizer+params"] = "none"
    timeout: Above0 = 1800.0

    # evaluation and records
    eval_every: Count = 10
    eval_problems: Positive = 128
    eval_completions: Positive = 8
    eval_temperature: Above0 = 1.0
    checkpoint_every: Count = 10
    keep_checkpoints: Positive = 2
    keep_best: bool = False
    kl_to_start: bool = True
    token_records: Count = 512
    tensorboard: bool = False

    @property
    def batch_size(self) -> int:
        """Sequences a step."""
        return self.prompts * self.completions

    @property
    def total_updates(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps * self.epochs * self.updates

    def make_method(self) -> methods.Method:
        return methods.get(self.method, **self.method_params)


def load(recipe: str | Path | None = None, **overrides) -> Config:
    """The validated Config of a recipe (a name in `recipes/` or a path; None for the defaults) with overrides.

    Raises ConfigError for an unknown recipe, setting, method or parameter, and for values that are not allowed.
    """
    base = read_recipe(recipe) if recipe is not None else {}
    if overrides.get("method", base.get("method")) != base.get("method"):  # parameters in the recipe are another one's
        base = {k: v for k, v in base.items() if k in Config.model_fields and k != "method_params"}
    return make({**base, **overrides})


def make(settings: dict[str, Any]) -> Config:
    """A validated Config from flat settings; parameters of the method may stand among them."""
    settings = {str(name): plain(value) for name, value in settings.items()}
    key, params = settings.get("method", Config.model_fields["method"].default), settings.get("method_params")
    params = {} if params is None else params
    if not isinstance(params, dict):
        raise ConfigError(f"method_params={params!r} must be a mapping; a parameter can also be given by its own name")
    try:
        own = [f.name for f in dataclasses.fields(methods.get_class(str(key)))]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"method={key!r}: {error}") from None
    by_name = {name: settings.pop(name) for name in [*settings] if name in own and name not in Config.model_fields}
    settings["method_params"] = {name: _number(value) for name, value in {**params, **by_name}.items()}
    if strange := [name for name in settings if name not in Config.model_fields]:
        also = f"\n  parameters of method {key!r}: {', '.join(own) or 'none'}"
        raise ConfigError("\n".join(unknown(n, settings[n], Config.model_fields, own) + also for n in strange))
    try:
        config = Config(**settings)
    except pydantic.ValidationError as error:
        raise refusal(error) from None
    return _validate(config)


def read_recipe(recipe: str | Path) -> dict[str, Any]:
    """The settings in a recipe file."""
    names = sorted(path.stem for path in RECIPES.glob("*.yaml"))
    if str(recipe) in names:
        return read_mapping(RECIPES / f"{recipe}.yaml", "recipe")
    path = Path(path_text(recipe))
    if path.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"recipe {str(recipe)!r} is neither a YAML file nor one of: {', '.join(names)}")
    return read_mapping(path, "recipe")


def read_run(path: Path) -> Config:
    """The Config in a run's config.yaml. Raises ConfigError, which names the file, for anything else."""
    try:
        settings = read_mapping(path, "settings")
        if absent := {"run_dir", "seed", "method", "method_params"} - settings.keys():  # a run writes every setting
            raise ConfigError(f"it has no {', '.join(sorted(absent))}")
        return make(settings)
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r} is not the config.yaml of a run: {error}") from None


def dump(config: Settings, path: Path) -> None:
    """Write resolved settings as YAML: every one, defaults included."""
    path.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True), "utf-8")


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What `now` has otherwise than `before`, as `name: before → now`."""
    return [f"{name}: {value!r} → {now[name]!r}" for name, value in before.items() if value != now[name]]


def _validate(config: Config) -> Config:
    """What holds between settings. Returns the config with its method's parameters and aggregation resolved."""
    try:
        method = config.make_method()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if config.batch_size % config.updates:
        raise ConfigError(
            f"prompts × completions = {config.prompts} × {config.completions} = {config.batch_size} "
            f"does not divide into updates={config.updates} equal mini-batches"
        )
    if config.warmup_updates >= config.total_updates:
        raise ConfigError(
            f"warmup_updates={config.warmup_updates} must be less than all {config.total_updates} updates"
        )
    longest = config.max_prompt_tokens + config.max_new_tokens
    if config.micro_tokens is not None and config.micro_tokens < longest:
        raise ConfigError(
            f"micro_tokens={config.micro_tokens} must be at least the longest sequence, "
            f"max_prompt_tokens + max_new_tokens = {longest}"
        )
    if config.task == "math" and not config.data:
        raise ConfigError("task='math' needs data=PATH, a JSONL or Parquet file or the name of a dataset")
    if config.task == "math" and config.model == "tiny":
        raise ConfigError("task='math' needs model=FOLDER; model='tiny' knows only the tokens of task='chain'")
    if config.drop_contaminated and not (config.task == "math" and config.eval_data):
        raise ConfigError("drop_contaminated=True needs task='math' and eval_data=PATH to compare with")
    if config.completions == 1 and config.zero_variance != "keep":
        raise ConfigError(
            f"completions=1 with zero_variance={config.zero_variance!r}: a group of one never varies, so none is left"
        )
    if config.asynchronous and config.correction != "none":
        raise ConfigError(
            f"asynchronous=True: its old log-probabilities are the sampler's own, so that "
            f"correction={config.correction!r} has nothing to correct"
        )
    if config.asynchronous and config.vllm.tensor_parallel > 1:
        raise ConfigError(
            f"asynchronous=True: each rank has a sampler of its own, so vllm.tensor_parallel="
            f"{config.vllm.tensor_parallel} must be 1"
        )
    if config.correction_bounds[0] >= config.correction_bounds[1]:
        raise ConfigError(f"correction_bounds={list(config.correction_bounds)}: the first must be below the second")
    if config.offload == "optimizer+params" and config.zero_stage != 3:
        raise ConfigError(f"offload='optimizer+params' needs zero_stage=3, not zero_stage={config.zero_stage}")
    if config.tiny.hidden % (2 * config.tiny.heads):
        raise ConfigError(f"tiny.hidden={config.tiny.hidden} must be a multiple of 2 × tiny.heads={config.tiny.heads}")
    aggregation = method.aggregation if config.aggregation == "method" else config.aggregation
    return config.model_copy(update={"method_params": method.params(), "aggregation": aggregation})


def check_machine(config: Settings) -> None:
    """Raise ConfigError where this machine lacks what a Config or EvalConfig asks for: before anything is loaded.

    To read the settings of a run that another machine made, or to plan one, needs none of it.
    """
    liger, tensorboard = (getattr(config, name, False) for name in ("liger", "tensorboard"))
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device='cuda', but there is no CUDA device here: 'cpu' or 'auto'")
    if liger and (config.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("liger=True: Liger's kernels need a CUDA device")
    if liger and importlib.util.find_spec("liger_kernel") is None:
        raise ConfigError("liger=True needs the package liger-kernel: pip install liger-kernel")
    if tensorboard and importlib.util.find_spec("tensorboard") is None:
        raise ConfigError("tensorboard=True needs the package tensorboard: pip install 'dgpo[tensorboard]'")


def _number(value):
    """YAML 1.1 and the command line give 3e-4 and inf as text."""
    try:
        return float(value) if isinstance(value, str) else plain(value)
    except ValueError:
        return value
