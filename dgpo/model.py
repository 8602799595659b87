"""A causal LM and the log-probabilities of its completion tokens, without the full logits.

`[B, T, V]` in float32 is the largest tensor of a naive trainer: 2,048 tokens over 151,936 words are 1.2 GB, and
log_softmax with its backward holds four of them. `token_logprobs` holds one chunk of it at a time and computes the
chunk again in the backward pass.
"""

import importlib
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from dgpo.config import ConfigError
from dgpo.selfcheck import check_output_layer

CHUNK_BYTES = 64 * 2**20
_ONE_THREAD = 20_000_000  # parameters; below, two threads wait for each other longer than they work


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, scale, with_entropy):
        N, chunk = len(hidden), _chunk(weight)
        keep = chunk >= N and any(ctx.needs_input_grad)  # a single chunk waits for the backward pass as it is
        whole = None
        logp, lse, entropy = hidden.new_zeros(3, N, dtype=_wide(hidden.dtype))
        for i in range(0, N, chunk):
            s = slice(i, i + chunk)
            z = _logits(hidden[s], weight, bias, scale)
            lse[s] = z.logsumexp(-1)
            logp[s] = z.gather(-1, targets[s, None]).squeeze(-1) - lse[s]
            if with_entropy or keep:
                z -= lse[s, None]
                whole = z if keep else None
            if with_entropy:
                entropy[s] = -(z.exp() * z.clamp(min=-1e9)).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, lse, entropy, whole)
        ctx.scale, ctx.with_entropy = scale, with_entropy
        ctx.mark_non_differentiable(*([] if with_entropy else [entropy]))
        return logp, entropy

    @staticmethod
    def backward(ctx, grad_logp, grad_entropy):
        hidden, weight, bias, targets, lse, entropy, whole = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # accumulated at least in float32: nineteen bfloat16 additions would lose what one matrix product keeps
        grad_weight = torch.zeros_like(weight, dtype=_wide(weight.dtype)) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        chunk = _chunk(weight)
        for i in range(0, len(hidden), chunk):
            s = slice(i, i + chunk)
            z = whole if whole is not None else _logits(hidden[s], weight, bias, ctx.scale).sub_(lse[s, None])
            by_word = -grad_logp[s, None]
            if ctx.with_entropy:
                by_word = (z.clamp(min=-1e9) + entropy[s, None]).mul_(-grad_entropy[s, None]).add_(by_word)
            g = z.exp_() if whole is None else z.exp()  # what was kept may be asked for again
            g.mul_(by_word)
            g.scatter_add_(-1, targets[s, None], grad_logp[s, None])
            g = (g if ctx.scale == 1.0 else g.mul_(ctx.scale)).to(hidden.dtype)
            grad_hidden[s] = g @ weight
            if grad_weight is not None and grad_weight.dtype == weight.dtype:
                grad_weight.addmm_(g.T, hidden[s])
            elif grad_weight is not None:
                grad_weight += g.T @ hidden[s]
            if grad_bias is not None:
                grad_bias += g.sum(0)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _logits(hidden, weight, bias, scale):
    z = F.linear(hidden, weight, bias)
    z = z.to(_wide(z.dtype))
    return z if scale == 1.0 else z.mul_(scale)


def _wide(dtype) -> torch.dtype:
    """float32 for the half precisions, else the type itself."""
    return torch.promote_types(dtype, torch.float32)


def _chunk(weight) -> int:
    return max(1, CHUNK_BYTES // (4 * len(weight)))


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, *, bias=None, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[Tensor, Tensor]:
    """log softmax((hidden Wᵀ + bias)/T)[targets] and the entropy of the same softmax, in nats.

    hidden `[N, H]`, weight `[V, H]`, targets `[N]` → two `[N]`. Logits are made in the model's dtype, the rest in
    float32 (float64 for a float64 model). Peak memory is O(chunk · V) with chunk · V · 4 bytes ≤ 64 MiB, forward and
    backward; between the two nothing is kept but what is a single chunk. Without `with_entropy` the entropy is zeros
    and has no gradient.
    """
    return _TokenLogProbs.apply(hidden, weight, bias, targets, 1.0 / temperature, with_entropy)


class Policy(nn.Module):
    """A `transformers` causal LM that maps a `Batch` to (logp, entropy), `[B, T]`, 0 on masked tokens.

    right_padded    sequences are moved to the left before the forward pass: nothing is computed for the padding before
                    a prompt, and causal attention needs no mask, which is what its fastest kernels ask for

    Raises ConfigError for a model whose logits are not those of its output layer (`selfcheck.check_output_layer`).
    """

    def __init__(self, lm: nn.Module, temperature: float = 1.0, right_padded: bool = False):
        super().__init__()
        self.device = lm.device  # once ZeRO-3 has cut the weights, they no longer say
        self.lm, self.temperature, self.right_padded = lm, temperature, right_padded
        check_output_layer(lm)

    def forward(self, batch, with_entropy: bool = False) -> tuple[Tensor, Tensor]:
        head, live = self.lm.get_output_embeddings(), batch.mask
        logp, entropy = token_logprobs(
            self._right_padded(batch) if self.right_padded else self._left_padded(batch),
            head.weight,
            batch.completion[live],
            bias=getattr(head, "bias", None),
            temperature=self.temperature,
            with_entropy=with_entropy,
        )
        empty = logp.new_zeros(live.shape)
        return empty.masked_scatter(live, logp), empty.masked_scatter(live, entropy)

    # Both give the hidden states that predict the live tokens, [N, H]: those one place before them.

    def _left_padded(self, batch) -> Tensor:
        positions = (batch.attention.long().cumsum(1) - 1).clamp(min=0)
        hidden = self.lm.base_model(
            input_ids=batch.tokens, attention_mask=batch.attention.long(), position_ids=positions, use_cache=False
        ).last_hidden_state
        return hidden[:, -batch.mask.shape[1] - 1 : -1][batch.mask]

    def _right_padded(self, batch) -> Tensor:
        prompt = batch.attention[:, : -batch.mask.shape[1]]
        before = (~prompt).sum(1, keepdim=True)  # columns of padding before each prompt
        width = int(batch.attention.sum(1).max())
        columns = torch.arange(width, device=before.device) + before
        tokens = batch.tokens.gather(1, columns.clamp(max=batch.tokens.shape[1] - 1))
        hidden = self.lm.base_model(input_ids=tokens, use_cache=False).last_hidden_state
        row, place = batch.mask.nonzero(as_tuple=True)
        return hidden[row, prompt.shape[1] - before[row, 0] + place - 1]


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
