"""Every setting of a run, typed and described; `recipes/*.yaml` are instances of `Config`.

    config = load("tiny", method="dgpo", n=2, steps=100)       a recipe by name or path, with overrides

A name that is no setting but a parameter of the chosen method (`n`, `eps_low`, ...) goes to `method_params`.
`python -m dgpo settings` prints what is described here.
"""

import dataclasses
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pydantic
import yaml
from pydantic import Field

from dgpo.config_parts import VLLM, Lora, TinyPolicy
from dgpo.errors import ConfigError
from dgpo.plain import number, path_text, plain
from dgpo.settings import (
    RENAMED,
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
    Text,
    Texts,
    Threads,
    nested,
    refusal,
    setting,
    unknown,
)
from dgpo.written import read_mapping

if TYPE_CHECKING:
    from dgpo.methods import Method

ACCEPTABLE = ("data", "model", "prompts", "code", "metrics")
INSTRUCTION = "\nPlease reason step by step, and put your final answer within \\boxed{}."
RECIPES = Path(__file__).parent / "recipes"

_run, _method, _policy, _task, _rollout, _updates, _ranks, _evaluation = (
    partial(setting, group=group)
    for group in ("run", "method", "policy", "task", "rollout", "updates", "ranks", "evaluation")
)


class PolicySettings(Settings):
    """What a run and an evaluation share: the policy, the fields of problem files, the sampler."""

    seed: Seed = _run(0, description="of every random number")
    overwrite: bool = _run(False, description="replace what the folder holds", resume="free")
    force: bool = _run(False, description="start what, by plan's prediction, does not fit the GPU", resume="free")

    model: PathText = _policy(
        "tiny", description="folder, .gguf file or hub name of the policy; `tiny` is the embedded one", resume="content"
    )
    tiny: TinyPolicy = _policy(TinyPolicy(), description="the embedded policy: tiny.hidden, tiny.steps, …")
    dtype: Literal["float32", "bfloat16", "float16"] = _policy(
        "float32", description="precision of weights and activations; float16 scales the loss"
    )
    head_dtype: Literal["model", "float32"] = _policy(
        "model", description="precision of the logits, of trainer and sampler alike; `model`: that of dtype"
    )
    float32_matmul: Literal["highest", "high", "medium"] = _policy(
        "highest",
        description="float32 matrix products: `high` may use TF32, `medium` bfloat16 where the processor has it",
        resume="rounding",
    )
    device: Literal["auto", "cpu", "cuda"] = _policy(
        "auto", description="`auto` takes a GPU where there is one", resume="rounding"
    )
    attention: Literal["auto", "sdpa", "flash_attention_2", "eager"] = _policy(
        "auto",
        description="`auto` takes flash-attn where it is installed and the policy is bfloat16 on a GPU, else SDPA",
        resume="rounding",
    )
    trust_remote_code: bool = _policy(False, description="run code that comes with a checkpoint")
    self_check: Literal["refuse", "warn"] = _policy(
        "refuse",
        description="what to do at the start where log π depends on the batch or on the sampler's cache",
        resume="free",
    )
    threads: Threads = _policy(
        0, description="CPU threads; 0 takes one below 20 M parameters, else torch's own number", resume="rounding"
    )

    difficulty: Positive = _task(4, description="operations of a chain or a word problem, numbers of a countdown")
    problem_field: str = _task("problem", description="field of a problem file that holds the problem")
    answer_field: str = _task("answer", description="field that holds the reference answer")
    encoding: Encoding = _task("utf-8", description="of problem files that are not UTF-8, such as cp1252")
    instruction: Text = _task(INSTRUCTION, description="text after each problem of a file or of words")
    system_prompt: str | None = _task(None, description="system message before each problem of a file or of words")
    examples: PathText | None = _task(
        None, description="file of worked examples, shown before each problem of a file", resume="content"
    )
    reward: Texts = _task(
        [], description="module:function, or several, in TRL's convention, in place of the verifier of files"
    )
    reward_weights: list[AnyNumber] = _task([], description="of several rewards; none: 1 each")
    reward_timeout: Above0 = _task(10.0, description="longest time of one reward", unit="seconds", resume="free")
    right_above: AnyNumber = _task(1.0, description="a reward of at least this counts as right in avg@k and pass@k")
    date: Day | None = _task(
        None, description="what a chat template gets as today's date; none: the day of the start", resume="later"
    )
    max_new_tokens: Positive = _rollout(40, description="longest completion", unit="tokens")
    rollout: Literal["transformers", "vllm"] = _rollout("transformers", description="the sampler")
    vllm: VLLM = _rollout(VLLM(), description="vLLM's engine: vllm.gpu_memory, …", resume="rounding")
    temperature: Above0 = _rollout(1.0, description="of the samples")
    generation_batch_size: Positive = _rollout(
        256, description="most sequences sampled at once by a rank", unit="sequences", resume="rounding"
    )


class Config(PolicySettings):
    """One run. Everything that changes its numbers is here."""

    run_dir: PathText = _run("runs/tiny", description="folder of the run", resume="free")
    steps: Positive = _run(60, description="batches to sample and learn from", resume="later")
    resume: bool = _run(False, description="continue the run in run_dir from its newest checkpoint", resume="free")
    accept_changes: list[Literal["data", "model", "prompts", "code", "metrics"]] = _run(
        [],
        description="what may differ from what a resumed run was made of; `metrics` accepts lost rows",
        resume="free",
    )

    method: str = _method("dgpo", description="a method's key (python -m dgpo methods), or module:Class")
    method_params: dict[str, Any] = _method({}, description="its parameters; each may also be given by its own name")
    advantage: Literal["grpo", "mean", "rloo", "maxrl", "batch-mean", "none"] = _method(
        "grpo",
        description="(R − mean) / std, R − mean, leave-one-out, (R − mean) / mean, R − mean of the whole step, or R",
    )
    filter_groups: Literal["none", "drop", "resample"] = _method(
        "none", description="groups of equal rewards: kept, dropped, or others sampled in their place (DAPO)"
    )
    max_resample_rounds: Positive = _method(4, description="most rounds of filter_groups='resample'")
    loss_aggregation: Literal["method", "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "constant"] = (
        _method("method", description="mean over tokens and sequences; `method` takes the one of the method's paper")
    )
    kl: Literal["unbiased", "k1", "k2", "k3"] = _method(
        "unbiased", description="estimator of the KL penalty: r · k3, or k1, k2, k3 as written"
    )
    kl_coef: From0 = _method(0.0, description="weight of the KL to the initial policy")
    kl_target: Above0 | None = _method(
        None, description="KL that kl_coef is adapted to, step by step; none: kl_coef stays", unit="nats a token"
    )
    kl_horizon: Positive = _method(
        10_000, description="kl_target moves kl_coef by up to a fifth in so many completions", unit="completions"
    )
    entropy_coef: AnyNumber = _method(0.0, description="weight of the entropy bonus")

    lora: Lora = _policy(Lora(), description="train low-rank additions alone: lora.r, lora.alpha, …")
    gradient_checkpointing: bool = _policy(
        False, description="recompute layers in the backward pass: less memory, a third more time", resume="rounding"
    )
    liger: bool = _policy(False, description="Liger's fused kernels, on a GPU", resume="rounding")

    task: str = _task(
        "chain",
        description="`chain`, `countdown` and `words` are generated, `math` reads files; or module:Class, your own",
    )
    overlong_window: Count = _task(
        0,
        description="rewards fall by up to 1 over so many last tokens before max_new_tokens (DAPO); 0: they do not",
        unit="tokens",
    )
    mask_truncated: bool = _task(False, description="completions cut off at max_new_tokens have no gradient (DAPO)")
    data: PathText | None = _task(None, description="file or hub name of training problems", resume="content")
    eval_data: PathText | None = _task(
        None, description="held-out problems; none: the first of a seeded shuffle of data", resume="content"
    )
    skip_bad_rows: bool = _task(False, description="leave out rows that cannot be used, instead of stopping")
    drop_contaminated: bool = _task(False, description="leave out training problems that eval_data holds")
    max_prompt_tokens: Positive = _task(64, description="longest prompt; longer problems are left out", unit="tokens")

    prompts_per_step: Positive = _rollout(32, description="problems of a step", unit="problems")
    group_size: Positive = _rollout(8, description="completions of each problem", unit="completions")
    asynchronous: bool = _rollout(
        False, description="sample the next step in another process during the updates: one step off-policy"
    )
    sampler_ranks: Count = _rollout(
        0,
        description="with asynchronous: samplers on devices of their own, beside those of the ranks; 0: each rank "
        "shares its own with one",
        resume="rounding",
    )
    max_mismatch: Above0 | None = _rollout(
        None, description="stop above this mean |log π_trainer − log π_sampler|", unit="nats"
    )
    importance_correction: Literal["none", "tis-token", "tis-sequence", "mask", "sequence-mask", "geometric-gate"] = (
        _rollout(
            "none",
            description="weigh the gradient by π_trainer / π_sampler of token or sequence: capped, or 0 out of bounds",
        )
    )
    importance_cap: Above0 = _rollout(2.0, description="cap of tis-token and tis-sequence")
    importance_bounds: tuple[From0, Above0] = _rollout((0.5, 5.0), description="ratios that masks and the gate keep")

    epochs: Positive = _updates(1, description="passes over a step's batch")
    num_minibatches: Positive = _updates(8, description="optimizer steps of each pass")
    micro_batch_size: Positive = _updates(
        32, description="sequences of a forward and backward pass", unit="sequences", resume="rounding"
    )
    max_tokens_per_micro_batch: Positive | None = _updates(
        None,
        description="in place of micro_batch_size: as many sequences as keep sequences × longest within it",
        unit="tokens",
        resume="rounding",
    )
    lr: Above0 = _updates(3e-4, description="AdamW's learning rate")
    schedule: Literal["constant", "cosine"] = _updates("constant", description="of the learning rate")
    warmup_updates: Count = _updates(0, description="optimizer steps of linear warm-up")
    weight_decay: From0 = _updates(0.0, description="AdamW's")
    betas: tuple[Fraction, Fraction] = _updates((0.9, 0.999), description="AdamW's")
    grad_clip: Above0 = _updates(1.0, description="largest norm of the gradient")

    ranks: Count = _ranks(0, description="processes; 0 takes what the launcher started", resume="rounding")
    zero_stage: Annotated[int, Field(ge=1, le=3)] = _ranks(1, description="DeepSpeed's ZeRO stage", resume="rounding")
    offload: Literal["none", "rollout", "optimizer", "optimizer+params"] = _ranks(
        "none",
        description="what DeepSpeed keeps in main memory; `rollout`: the optimizer, while completions are sampled",
        resume="rounding",
    )
    timeout: Above0 = _ranks(
        1800.0, description="longest wait for the other ranks at any one place", unit="seconds", resume="free"
    )

    eval_every: Count = _evaluation(10, description="0: before the first step and after the last only", unit="steps")
    eval_problems: Positive = _evaluation(128, description="held-out problems", unit="problems")
    eval_samples: Positive = _evaluation(8, description="completions of each of them", unit="completions")
    eval_temperature: Above0 = _evaluation(1.0, description="of those samples")
    checkpoint_every: Count = _evaluation(10, description="0: after the last step only", unit="steps", resume="free")
    keep_checkpoints: Positive = _evaluation(2, description="newest checkpoints that stay", resume="free")
    keep_best: bool = _evaluation(False, description="also keep the one of the highest avg@k", resume="free")
    log_reference_kl: bool = _evaluation(True, description="measure the KL to the initial policy in every step")
    token_records: Count = _evaluation(512, description="tokens of a step that are recorded", unit="tokens")
    log_to: list[Literal["tensorboard", "wandb", "trackio", "mlflow"]] = _evaluation(
        [], description="trackers that get a copy of the metrics", resume="free"
    )
    hub: str | None = _evaluation(
        None, description="owner/name on the Hugging Face hub that the trained policy is pushed to", resume="free"
    )

    @property
    def batch_size(self) -> int:
        """Sequences a step."""
        return self.prompts_per_step * self.group_size

    @property
    def total_updates(self) -> int:
        """Optimizer steps of the whole run."""
        return self.steps * self.epochs * self.num_minibatches

    def make_method(self) -> "Method":
        from dgpo import methods

        return methods.get(self.method, **self.method_params)


def load(recipe: str | PathLike | None = None, **overrides) -> Config:
    """The validated Config of a recipe (a name in `recipes/` or a path; None for the defaults) with overrides.

    Raises ConfigError for an unknown recipe, setting, method or parameter, and for values that are not allowed.
    """
    base = read_recipe(recipe) if recipe is not None else {}
    if overrides.get("method", base.get("method")) != base.get("method"):  # parameters in the recipe are another one's
        base = {k: v for k, v in base.items() if k in Config.model_fields and k != "method_params"}
    return make({**base, **overrides})


def make(settings: dict[str, Any]) -> Config:
    """A validated Config from flat settings; parameters of the method may stand among them."""
    from dgpo import config_rules, methods  # torch, which the help of the command line does without

    settings = nested({str(name): plain(value) for name, value in settings.items()})
    key, params = settings.get("method", Config.model_fields["method"].default), settings.get("method_params")
    params = {} if params is None else params
    if not isinstance(params, dict):
        raise ConfigError(f"method_params={params!r} must be a mapping; a parameter can also be given by its own name")
    try:
        own = [f.name for f in dataclasses.fields(methods.get_class(str(key)))]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"method={key!r}: {error}") from None
    by_name = {name: settings.pop(name) for name in [*settings] if name in own and name not in Config.model_fields}
    settings["method_params"] = {name: number(value) for name, value in {**params, **by_name}.items()}
    if strange := [name for name in settings if name not in Config.model_fields]:
        also = f"\n  parameters of method {key!r}: {', '.join(own) or 'none'}"
        raise ConfigError("\n".join(unknown(n, settings[n], Config.model_fields, own) + also for n in strange))
    try:
        config = Config(**settings)
    except pydantic.ValidationError as error:
        raise refusal(error) from None
    return config_rules.validate(config)


def read_recipe(recipe: str | PathLike) -> dict[str, Any]:
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
        if old := RENAMED.keys() & settings.keys() - Config.model_fields.keys():
            raise ConfigError(
                f"dgpo 0.1 wrote it, whose settings had other names ({', '.join(sorted(old)[:3])}, …): read or resume "
                "it with that version"
            )
        return make(settings)
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r} is not the config.yaml of a run: {error}") from None


def dump(config: Settings, path: Path) -> None:
    """Write resolved settings as YAML: every one, defaults included."""
    path.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True), "utf-8")
