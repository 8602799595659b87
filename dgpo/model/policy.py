"""A causal LM as a policy: the log-probabilities that it gives to the completion tokens of a batch."""

import importlib
from types import MethodType
from typing import cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from dgpo.batch import Rollout
from dgpo.config import ConfigError
from dgpo.model.logprobs import token_logprobs, wide_linear
from dgpo.model.output_layer import check_output_layer

_ONE_THREAD = 20_000_000  # parameters; below, two threads wait for each other longer than they work


class Policy(nn.Module):
    """A `transformers` causal LM that maps a `Rollout` to (logp, entropy), `[B, T]`, 0 on masked tokens.

    right_padded    sequences are moved to the left before the forward pass: nothing is computed for the padding before
                    a prompt, and causal attention needs no mask, which is what its fastest kernels ask for
    head_dtype      "float32": logits in float32, also in the model's own forward pass; "model": in the model's dtype

    Raises ConfigError for a model whose logits are not those of its output layer (`output_layer.check_output_layer`).
    """

    lm: PreTrainedModel
    device: torch.device

    def __init__(
        self, lm: PreTrainedModel, temperature: float = 1.0, right_padded: bool = False, head_dtype: str = "model"
    ):
        super().__init__()
        self.device = lm.device  # once ZeRO-3 has cut the weights, they no longer say
        self.lm, self.temperature, self.right_padded = lm, temperature, right_padded
        check_output_layer(lm)
        self.is_wide = head_dtype == "float32" and lm.dtype != torch.float32
        if self.is_wide:  # for the embedded sampler, which asks the model for its logits
            self.head.forward = MethodType(_wide_head, self.head)

    @property
    def head(self) -> nn.Linear:
        """The output layer."""
        return cast(nn.Linear, self.lm.get_output_embeddings())

    def forward(self, batch: Rollout, with_entropy: bool = False) -> tuple[Tensor, Tensor]:
        head, live = self.head, batch.mask
        logp, entropy = token_logprobs(
            self._right_padded(batch) if self.right_padded else self._left_padded(batch),
            head.weight,
            batch.completion[live],
            bias=getattr(head, "bias", None),
            temperature=self.temperature,
            with_entropy=with_entropy,
            is_wide=self.is_wide,
        )
        empty = logp.new_zeros(live.shape)
        return empty.masked_scatter(live, logp), empty.masked_scatter(live, entropy)

    # Both give the hidden states that predict the live tokens, [N, H]: those one place before them.

    def _left_padded(self, batch: Rollout) -> Tensor:
        positions = (batch.attention_mask.long().cumsum(1) - 1).clamp(min=0)
        hidden = self.lm.base_model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask.long(),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        return hidden[:, -batch.mask.shape[1] - 1 : -1][batch.mask]

    def _right_padded(self, batch: Rollout) -> Tensor:
        prompt = batch.attention_mask[:, : -batch.mask.shape[1]]
        before = (~prompt).sum(1, keepdim=True)  # columns of padding before each prompt
        width = int(batch.attention_mask.sum(1).max())
        columns = torch.arange(width, device=before.device) + before
        tokens = batch.input_ids.gather(1, columns.clamp(max=batch.input_ids.shape[1] - 1))
        hidden = self.lm.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        row, place = batch.mask.nonzero(as_tuple=True)
        return hidden[row, prompt.shape[1] - before[row, 0] + place - 1]


def _wide_head(head: nn.Linear, hidden: Tensor) -> Tensor:
    return wide_linear(hidden.flatten(0, -2), head.weight, head.bias).unflatten(0, hidden.shape[:-1])


def set_threads(threads: int, parameters: int) -> None:
    """Let torch use `threads`; 0 is one for a policy below 20 M parameters, and torch's own number above."""
    if threads or parameters < _ONE_THREAD:
        torch.set_num_threads(threads or 1)


def pick_device(device: str) -> str:
    """The device that "auto" means here: CUDA where there is one."""
    return device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def recompute_layers(lm) -> None:
    """Gradient checkpointing: keep only the input of each layer for the backward pass, and compute the rest again.

    Where a gradient is wanted, whether the model is in training mode or not: transformers' own switch works in training
    mode alone, which turns dropout on and which the embedded sampler leaves. Raises ConfigError for a model without
    such layers.
    """
    layers = [m for m in lm.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ConfigError(f"gradient_checkpointing=True: model_type={lm.config.model_type!r} has no layers made for it")
    for layer in layers:  # a bound method, so that a copy of the model computes with its own weights
        layer.forward = MethodType(_recomputed, layer)


def _recomputed(layer, *args, **kwargs):
    plain = MethodType(type(layer).forward, layer)
    return (
        checkpoint(plain, *args, use_reentrant=False, **kwargs) if torch.is_grad_enabled() else plain(*args, **kwargs)
    )


def apply_liger(lm) -> None:
    """Liger's kernels for norms, rotary embeddings and MLPs; the log-probabilities stay `token_logprobs`.

    Raises ConfigError where Liger has none for the architecture (it would say nothing and change nothing).
    """
    from transformers.integrations.liger import apply_liger_kernel

    patches = importlib.import_module("liger_kernel.transformers.monkey_patch")
    if lm.config.model_type not in patches.MODEL_TYPE_TO_APPLY_LIGER_FN:
        raise ConfigError(f"liger=True: Liger has no kernels for model_type={lm.config.model_type!r}")
    apply_liger_kernel(lm, {"cross_entropy": False, "fused_linear_cross_entropy": False})
