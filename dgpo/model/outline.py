"""A checkpoint without its weights: what an evaluation needs to know of a model that vLLM holds."""

from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GenerationConfig

from dgpo.errors import ConfigError
from dgpo.model import loading


def load_outline(path: str | Path, trust_remote_code: bool = False):
    """(causal LM on the meta device, tokenizer) of a checkpoint folder or hub name, with the checks of `load_lm`.

    NaN in the weights is looked for tensor by tensor, in main memory. Raises ConfigError.
    """
    shape = loading.load_shape(path, trust_remote_code)
    loading.check_files(path)
    tokenizer = loading.load_tokenizer(path, trust_remote_code)
    with loading.naming(path), torch.device("meta"):
        lm = AutoModelForCausalLM.from_config(shape, trust_remote_code=trust_remote_code)
    if (Path(path) / "generation_config.json").exists() or not Path(path).exists():  # of a folder or a hub name
        with loading.naming(path):
            lm.generation_config = GenerationConfig.from_pretrained(path)
    loading.check_tokens(path, lm, tokenizer)
    _check_numbers(path)
    return lm, tokenizer


def _check_numbers(path: str | Path) -> None:
    for file in sorted(Path(path).glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 (it is no mapping)
                tensor = weights.get_tensor(name)
                if tensor.numel() and not torch.stack(tensor.aminmax()).isfinite().all():
                    raise ConfigError(f"model={str(path)!r}: its weights are NaN or infinite: {name}")
