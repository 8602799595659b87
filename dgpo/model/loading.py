"""Load a checkpoint folder as a causal LM and its tokenizer, or explain in one line what is wrong with it."""

import importlib.util
import io
import logging
import os
from contextlib import contextmanager, nullcontext, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.tokenization_auto import get_tokenizer_config
from transformers.utils.import_utils import is_flash_attn_2_available
from transformers.utils.logging import disable_progress_bar

from dgpo.errors import ConfigError, first_line

_POINTER = b"version https://git-lfs.github.com/spec"  # how the file in place of a large one begins
# print tables of tensors that do not fit (our error names them) and warnings of layers that are not sharded
_TALKATIVE = ("transformers.modeling_utils", "transformers.distributed.tensor_parallel")
_AS_SAVED = ("TokenizersBackend", "PreTrainedTokenizerFast")  # tokenizer.json says all there is


def load_lm(
    path: str | Path,
    dtype: str = "float32",
    device: str = "cpu",
    attention: str = "auto",
    trust_remote_code: bool = False,
):
    """(causal LM, tokenizer) of a checkpoint folder, a GGUF file or a hub name; the tokenizer pads on the left.

    The weights of a GGUF file are de-quantised, so that saving gives an ordinary checkpoint. Raises ConfigError for a
    folder that is not a causal-LM checkpoint or has an unknown architecture; for weights that are broken, NaN or do not
    match config.json; for a missing tokenizer or stop token, or a token outside the model's vocabulary; for code that
    would run without permission; and for a GGUF file without the extra `gguf`.
    """
    shape = load_shape(path, trust_remote_code)
    check_files(path)
    tokenizer = load_tokenizer(path, trust_remote_code)
    folder, gguf = _source(path)
    disable_progress_bar()  # a bar that a stored notebook shows as rubbish
    bar = redirect_stderr(io.StringIO()) if gguf else nullcontext()  # the one that the switch does not reach
    with naming(path), _quietly(*_TALKATIVE), bar:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            attn_implementation=_attention(attention, dtype, device, shape),
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **gguf,
        )
    lm, report = loaded
    if gguf:  # the weights no longer are quantised, but transformers would refuse to save them
        lm.hf_quantizer = None
        vars(lm.config).pop("quantization_config", None)
    lm = lm.to(device)
    _check_weights(path, lm, report)
    check_tokens(path, lm, tokenizer)
    return lm, tokenizer


def load_tokenizer(path: str | Path, trust_remote_code: bool = False):
    """The tokenizer of a checkpoint folder, a GGUF file or a hub name, which pads on the left. Raises ConfigError."""
    folder, gguf = _source(path)
    with naming(path), _quietly(*_TALKATIVE):
        named = None if gguf else get_tokenizer_config(folder).get("tokenizer_class")
        # AutoTokenizer puts Qwen2's word splitting in place of that of a tokenizer.json beside any Qwen2 model
        loader = PreTrainedTokenizerFast if named in _AS_SAVED else AutoTokenizer
        tokenizer = loader.from_pretrained(folder, padding_side="left", trust_remote_code=trust_remote_code, **gguf)
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers makes up for a folder without one
        raise ConfigError(f"model={str(path)!r} has no tokenizer: save one there with tokenizer.save_pretrained")
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"model={str(path)!r}: its tokenizer has no eos_token, so a completion could not end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_files(path) -> None:
    """Raise ConfigError for files left by a clone without git-lfs or a broken download; transformers garbles those."""
    for file in sorted(Path(path).iterdir()) if os.path.isdir(path) else ():
        if file.suffix not in (".safetensors", ".bin", ".json", ".model"):
            continue
        with file.open("rb") as opened:
            if opened.read(len(_POINTER)) == _POINTER:
                raise ConfigError(f"model={str(path)!r}: {file.name} is a git-lfs pointer: run `git lfs pull` there")
        try:
            if file.suffix == ".safetensors":
                safe_open(file, "pt")
        except SafetensorError as error:
            raise ConfigError(
                f"model={str(path)!r}: {file.name} is cut short or damaged: copy it again ({error})"
            ) from None


def _check_weights(path, lm, report) -> None:
    """Raise ConfigError unless the weights match the architecture; transformers would invent what is missing."""
    if found := sorted(report["mismatched_keys"]):
        name, given, expected = found[0]
        what = f"do not have the shapes that config.json gives: {name} is {[*given]} and should be {[*expected]}"
    elif found := sorted(report["missing_keys"]):
        what = f"lack {', '.join(found[:3])}"
    elif found := sorted(report["unexpected_keys"]):
        what = f"have no place in its architecture: {', '.join(found[:3])}"
    elif found := [
        name for name, p in lm.named_parameters() if p.numel() and not torch.stack(p.aminmax()).isfinite().all()
    ]:
        what = f"are NaN or infinite: {', '.join(found[:3])}"
    else:
        return
    raise ConfigError(f"model={str(path)!r}: its weights {what}{' ...' if len(found) > 3 else ''}")


def check_tokens(path, lm, tokenizer) -> None:
    """Raise ConfigError for a token id outside the embedding or the output layer, an index error deep in the model."""
    layers = (lm.get_input_embeddings(), lm.get_output_embeddings())
    rows = min(len(layer.weight) for layer in layers if layer is not None)
    stops = lm.generation_config.eos_token_id
    stops = [stops] if isinstance(stops, int) else stops or []
    ids = tokenizer.get_vocab() | {f"eos_token_id={i} of generation_config.json": i for i in stops}
    if beyond := sorted((i, name) for name, i in ids.items() if not 0 <= i < rows):
        token, name = beyond[0]
        more = f" and {len(beyond) - 1} more are" if beyond[1:] else " is"
        raise ConfigError(
            f"model={str(path)!r}: token {token}, {name!r},{more} outside the model's {rows} rows: use its "
            "own tokenizer, or add the rows with lm.resize_token_embeddings(len(tokenizer))"
        )


def load_shape(path: str | Path, trust_remote_code: bool = False):
    """The transformers config of a checkpoint folder, a GGUF file or a hub name. Raises ConfigError."""
    folder, gguf = _source(path)
    if gguf:
        _check_gguf(path)
        with naming(path), _quietly(*_TALKATIVE):
            return AutoConfig.from_pretrained(folder, **gguf)
    local = os.path.isdir(path)
    if local and not (Path(path) / "config.json").exists():
        if (Path(path) / "policy" / "config.json").exists():
            raise ConfigError(f"model={str(path)!r} is the folder of a run: its policy is model={path}/policy")
        raise ConfigError(f"model={str(path)!r} has no config.json: not a transformers checkpoint folder")
    if not local and (str(path).startswith((".", "/", "~")) or str(path).count("/") > 1):
        raise ConfigError(f"model={str(path)!r} does not exist")
    with naming(path):
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)


def dtype_of(config) -> str:
    """The dtype of a config's checkpoint: one that `dtype` may be, else float32."""
    if config.model == "tiny":
        return "float32"
    said = str(load_shape(config.model, config.trust_remote_code).dtype).removeprefix("torch.")
    return said if said in ("bfloat16", "float16") else "float32"


def _source(path) -> tuple[str | Path, dict[str, Any]]:
    """What `from_pretrained` reads: the folder or hub name, and the keyword that names a GGUF file in the folder."""
    if not is_gguf(path):
        return path, {}
    return Path(path).parent, {"gguf_file": Path(path).name}


def is_gguf(path: str | Path) -> bool:
    return Path(path).suffix == ".gguf"


def _check_gguf(path) -> None:
    """Raise ConfigError unless `path` is a GGUF file and what reads one is installed."""
    if not Path(path).is_file():
        raise ConfigError(f"model={str(path)!r} does not exist")
    if absent := [name for name in ("gguf", "accelerate") if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"model={str(path)!r} needs the package {' and '.join(absent)}: pip install 'dgpo[gguf]'")
    with open(path, "rb") as opened:
        if (start := opened.read(len(_POINTER))) == _POINTER:
            raise ConfigError(f"model={str(path)!r} is a git-lfs pointer: run `git lfs pull` there")
        if start[:4] != b"GGUF":
            raise ConfigError(f"model={str(path)!r} is not a GGUF file: it begins with {start[:4]!r}")


@contextmanager
def naming(path):
    """An error of transformers at reading a model names it, by the first of its many lines."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, ConfigError):
        raise
    except Exception as error:  # KeyError, AttributeError, UnpicklingError ...: whatever a folder's contents lead to
        hint = "; trust_remote_code=true runs it" if "trust_remote_code" in str(error) else ""
        raise ConfigError(f"model={str(path)!r}: {first_line(error)}{hint}") from error


@contextmanager
def _quietly(*names: str):
    """Without the warnings of the loggers of these names."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in names}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


def _attention(attention: str, dtype: str, device: str, shape) -> str | None:
    """The implementation's name for transformers; None is SDPA where the architecture has it."""
    possible = device == "cuda" and dtype != "float32" and is_flash_attn_2_available()
    if attention == "flash_attention_2" and not possible:
        raise ConfigError(
            "attention='flash_attention_2' needs a CUDA device, dtype='bfloat16' or 'float16', and the package "
            "flash-attn; 'auto' uses it where all three are present, else 'sdpa'"
        )
    if attention == "auto":
        known = getattr(MODEL_FOR_CAUSAL_LM_MAPPING.get(type(shape), None), "_supports_flash_attn", False)
        return "flash_attention_2" if possible and known else None
    return attention
