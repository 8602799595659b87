"""Rules between the settings of a run, and what they need of the machine."""

import importlib.util
import re
from typing import TYPE_CHECKING, Any

import torch

from dgpo.errors import ConfigError
from dgpo.settings import GENERATED, WORDS

if TYPE_CHECKING:
    from dgpo.config import Config, PolicySettings

_WHOLE_GPU = 0.9  # vLLM's share of a GPU that is the sampler's own


def validate(config: "Config") -> "Config":
    """Check the rules between settings. Returns the config with its method's parameters and aggregation resolved."""
    try:
        method = config.make_method()
    except ValueError as error:
        raise ConfigError(str(error)) from None
    for check in (_check_batch, _check_task, _check_reward, _check_asynchronous, _check_rest):
        check(config)
    aggregation = method.aggregation if config.loss_aggregation == "method" else config.loss_aggregation
    resolved: dict[str, Any] = {"method_params": method.params(), "loss_aggregation": aggregation}
    if config.sampler_ranks and config.vllm.gpu_memory is None:  # its device holds nothing else
        resolved["vllm"] = config.vllm.model_copy(update={"gpu_memory": _WHOLE_GPU})
    return config.model_copy(update=resolved)


def _check_batch(config: "Config") -> None:
    if config.batch_size % config.num_minibatches:
        raise ConfigError(
            f"prompts_per_step × group_size = {config.prompts_per_step} × {config.group_size} = {config.batch_size} "
            f"cannot be split into num_minibatches={config.num_minibatches} equal mini-batches"
        )
    if config.warmup_updates >= config.total_updates:
        raise ConfigError(
            f"warmup_updates={config.warmup_updates} must be less than all {config.total_updates} updates"
        )
    longest = config.max_prompt_tokens + config.max_new_tokens
    if config.max_tokens_per_micro_batch is not None and config.max_tokens_per_micro_batch < longest:
        raise ConfigError(
            f"max_tokens_per_micro_batch={config.max_tokens_per_micro_batch} must be at least the longest sequence, "
            f"max_prompt_tokens + max_new_tokens = {longest}"
        )
    if config.overlong_window > config.max_new_tokens:
        raise ConfigError(
            f"overlong_window={config.overlong_window} must be at most max_new_tokens={config.max_new_tokens}"
        )
    if config.group_size == 1 and config.filter_groups != "none":
        raise ConfigError(
            f"group_size=1 with filter_groups={config.filter_groups!r}: the rewards of one completion never differ, "
            "so every group is dropped"
        )


def _check_task(config: "Config") -> None:
    if config.task == "math" and not config.data:
        raise ConfigError("task='math' needs data=PATH, a JSONL or Parquet file or the name of a dataset")
    if config.task not in (*GENERATED, WORDS, "math") and ":" not in config.task:
        known = ", ".join(map(repr, (*GENERATED, WORDS, "math")))
        raise ConfigError(f"task={config.task!r} must be one of {known}, or module:Class")
    if config.task in (WORDS, "math") and config.model == "tiny":
        raise ConfigError(
            f"task={config.task!r} needs model=FOLDER; model='tiny' knows only the tokens of {' and '.join(GENERATED)}"
        )
    if config.examples and config.task != "math":
        raise ConfigError(f"examples={config.examples!r} needs task='math', whose problems it precedes")
    if config.drop_contaminated and not (config.task == "math" and config.eval_data):
        raise ConfigError("drop_contaminated=True needs task='math' and eval_data=PATH to compare with")


def _check_reward(config: "Config") -> None:
    if config.reward and config.task != "math":
        raise ConfigError(f"reward={config.reward} needs task='math', whose problems it judges, not {config.task!r}")
    check_rewards(config)


def check_rewards(config: "PolicySettings") -> None:
    """Raise ConfigError for rewards that are no module:function, and for weights that are not as many."""
    if bad := [name for name in config.reward if name.count(":") != 1]:
        raise ConfigError(f"reward={bad[0]!r} must be module:function")
    if config.reward_weights and not config.reward:
        raise ConfigError(f"reward_weights={config.reward_weights} needs reward=module:function, which they weigh")
    if config.reward_weights and len(config.reward_weights) != len(config.reward):
        raise ConfigError(
            f"reward_weights={config.reward_weights}: {len(config.reward_weights)} weights for "
            f"{len(config.reward)} rewards"
        )


def _check_asynchronous(config: "Config") -> None:
    if config.asynchronous and config.importance_correction != "none":
        raise ConfigError(
            f"asynchronous=True: its old log-probabilities are the sampler's own, so that "
            f"importance_correction={config.importance_correction!r} has nothing to correct"
        )
    if config.asynchronous and config.vllm.tensor_parallel > 1:
        raise ConfigError(
            f"asynchronous=True: each sampler is a process with one device, so vllm.tensor_parallel="
            f"{config.vllm.tensor_parallel} must be 1"
        )
    if config.sampler_ranks and not config.asynchronous:
        raise ConfigError(
            f"sampler_ranks={config.sampler_ranks} needs asynchronous=True: samplers on devices of their own would "
            "stand idle while the policy is updated"
        )


def _check_rest(config: "Config") -> None:
    if config.kl_target is not None and not config.kl_coef:
        raise ConfigError(f"kl_target={config.kl_target} needs kl_coef above 0, the coefficient of the first step")
    if config.kl_target is None and config.kl_horizon != type(config).model_fields["kl_horizon"].default:
        raise ConfigError(f"kl_horizon={config.kl_horizon} needs kl_target, the KL that kl_coef is moved towards")
    if config.kl_target is not None and config.kl_horizon < config.batch_size:
        raise ConfigError(
            f"kl_horizon={config.kl_horizon} must be at least the {config.batch_size} completions of a step "
            "(prompts_per_step × group_size)"
        )
    if config.importance_bounds[0] >= config.importance_bounds[1]:
        raise ConfigError(f"importance_bounds={list(config.importance_bounds)}: the first must be below the second")
    if config.hub is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", config.hub):
        raise ConfigError(f"hub={config.hub!r} must be owner/name, in letters, digits, -, _ and .")
    if config.lora.r and config.zero_stage == 3:
        raise ConfigError("lora.r above 0 needs zero_stage=1 or 2: the frozen weights are whole on every rank")
    if config.offload == "optimizer+params" and config.zero_stage != 3:
        raise ConfigError(f"offload='optimizer+params' needs zero_stage=3, not zero_stage={config.zero_stage}")
    if config.offload == "rollout" and config.asynchronous:
        raise ConfigError(
            "offload='rollout' with asynchronous=True: it samples while it learns; use offload='optimizer'"
        )
    if config.tiny.hidden % (2 * config.tiny.heads):
        raise ConfigError(f"tiny.hidden={config.tiny.hidden} must be a multiple of 2 × tiny.heads={config.tiny.heads}")


def check_devices(config: "Config", jobs: int) -> None:
    """Raise ConfigError if several runs at once would start their ranks on the same GPUs."""
    several = "ranks" if config.ranks > 1 else "sampler_ranks" if config.sampler_ranks else None
    if jobs > 1 and several and config.device != "cpu" and torch.cuda.is_available():
        asked = f"{several}={getattr(config, several)}"
        raise ConfigError(f"jobs={jobs} with {asked}: each takes GPUs from the first one on; use jobs=1")


def check_machine(config: "PolicySettings") -> None:
    """Raise ConfigError if this machine lacks what a Config or EvalConfig needs, before anything is loaded.

    Reading the settings of another machine's run, or planning one, needs no such check.
    """
    liger = getattr(config, "liger", False)
    if config.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device='cuda' needs a CUDA device, and this machine has none: use 'cpu' or 'auto'")
    if liger and (config.device == "cpu" or not torch.cuda.is_available()):
        raise ConfigError("liger=True: Liger's kernels need a CUDA device")
    if liger and importlib.util.find_spec("liger_kernel") is None:
        raise ConfigError("liger=True needs the package liger-kernel: pip install liger-kernel")
    if getattr(getattr(config, "lora", None), "r", 0) and importlib.util.find_spec("peft") is None:
        raise ConfigError("lora.r above 0 needs the package peft: pip install 'dgpo[lora]'")
    log_to = getattr(config, "log_to", [])
    if absent := [name for name in log_to if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"log_to={log_to} needs what is not installed: pip install {' '.join(absent)}")
