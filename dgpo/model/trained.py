"""The policy that a run trains: made from its settings, and saved as an ordinary checkpoint."""

from pathlib import Path

from torch import Tensor
from transformers import GenerationConfig

from dgpo.config import Config, ConfigError
from dgpo.model import lora, tiny
from dgpo.model.policy import Policy, apply_liger, recompute_layers


def make(config: Config):
    """(policy, tokenizer, the checkpoint that they were read from). Raises ConfigError for too few positions."""
    lm, tokenizer, source = tiny.load_policy(config)
    if config.lora.r:
        lora.add(lm, config.lora, config.seed)
    if config.gradient_checkpointing:
        recompute_layers(lm)
    if config.liger:
        apply_liger(lm)
    positions = getattr(lm.config, "max_position_embeddings", None)
    if positions and config.max_prompt_tokens + config.max_new_tokens > positions:
        raise ConfigError(
            f"max_prompt_tokens={config.max_prompt_tokens} and max_new_tokens={config.max_new_tokens} must "
            f"add up to at most the model's {positions} positions"
        )
    right_padded = config.max_tokens_per_micro_batch is not None
    return Policy(lm, config.temperature, right_padded, config.head_dtype), tokenizer, source


def save(policy: Policy, tokenizer, weights: dict[str, Tensor], folder: Path) -> None:
    """Write weights, configuration and tokenizer for transformers and vLLM."""
    lm, generation = policy.lm, policy.lm.generation_config
    lm.generation_config = GenerationConfig()  # one that contradicts itself is read by transformers and not saved
    lm.save_pretrained(folder, state_dict=weights)
    lm.generation_config = generation
    generation.to_json_file(folder / "generation_config.json")
    tokenizer.save_pretrained(folder)
