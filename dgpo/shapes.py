"""The numbers of a model that `plan` uses: its sizes, and the FLOPs and bytes that follow from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoModelForCausalLM, Qwen2Config

from dgpo.config import Config
from dgpo.model import tiny
from dgpo.model.loading import load_shape

KNOWN = {  # by the name of the repository, for a machine without network
    "DeepSeek-R1-Distill-Qwen-1.5B": (151_936, 1_536, 8_960, 28, 12, 2),
    "DeepSeek-R1-Distill-Qwen-7B": (152_064, 3_584, 18_944, 28, 28, 4),
    "DeepSeek-R1-Distill-Qwen-14B": (152_064, 5_120, 13_824, 48, 40, 8),
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a model that the arithmetic needs. `body`: parameters outside the embedding and the output layer."""

    parameters: int
    body: int
    words: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    queries: int  # heads × their size
    keys: int  # key-value heads × their size
    lora_width: int = 0  # inputs and outputs of all linear layers that LoRA would change

    @classmethod
    def of(cls, config, trust_remote_code: bool = False, targets: Sequence[str] = ()) -> "Shape":
        """Of a transformers config, its parameters counted on the meta device; `targets` are lora.target_modules."""
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        embedding, head = lm.get_input_embeddings().weight, lm.get_output_embeddings().weight
        outside = embedding.numel() + (0 if embedding is head else head.numel())
        named = ((n.rpartition(".")[2], m) for n, m in lm.named_modules() if isinstance(m, nn.Linear))
        linear = [m for name, m in named if m.weight is not head and (name in targets or not targets)]
        heads = config.num_attention_heads
        size = getattr(config, "head_dim", None) or config.hidden_size // heads
        return cls(
            parameters=lm.num_parameters(),
            body=lm.num_parameters() - outside,
            words=len(head),
            hidden=config.hidden_size,
            intermediate=getattr(config, "intermediate_size", None) or 4 * config.hidden_size,
            layers=config.num_hidden_layers,
            heads=heads,
            queries=heads * size,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * size,
            lora_width=sum(m.in_features + m.out_features for m in linear),
        )

    def forward_flops(self, tokens: float, pairs: float, outputs: float) -> float:
        """Of a forward pass: `pairs` of a token and one that it attends to, `outputs` tokens through the head."""
        return 2 * self.body * tokens + 4 * self.queries * self.layers * pairs + 2 * self.words * self.hidden * outputs

    def kept_bytes(self, width: int) -> int:
        """The bytes that one layer keeps of a token for its backward pass, in a Qwen2 with SDPA; `width` bytes a
        number.

        Two norms: their input in float32, its normalised form, their output, a scale. Attention: queries, keys, values,
        output, a sum in float32 a head. The MLP: four of its inner size.
        """
        norms = 2 * (4 * self.hidden + 2 * width * self.hidden + 4)
        attention = width * (2 * self.queries + 2 * self.keys) + 4 * self.heads
        return norms + attention + 4 * width * self.intermediate


def shape_of(config: Config) -> Shape:
    """The shape of a config's model: its folder, one of KNOWN, or a hub name. Raises ConfigError."""
    if config.model == "tiny":
        shape = tiny.shape(config.tiny, tiny.task_of(config).tokenizer())
    elif not Path(config.model).is_dir() and Path(config.model).name in KNOWN:
        shape = known(config.model)
    else:
        shape = load_shape(config.model, config.trust_remote_code)
    return Shape.of(shape, config.trust_remote_code, config.lora.target_modules)


def known(name: str) -> Qwen2Config:
    """The transformers config of one of KNOWN."""
    words, hidden, intermediate, layers, heads, kv_heads = KNOWN[Path(name).name]
    return Qwen2Config(
        vocab_size=words,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=131_072,
        tie_word_embeddings=False,
    )
