"""Log-probabilities of completion tokens without the full logits.

`[B, T, V]` in float32 is the largest tensor of a naive trainer: 2,048 tokens over 151,936 words are 1.2 GB, and
log_softmax with its backward holds four of them. `token_logprobs` holds one chunk of it at a time and computes the
chunk again in the backward pass.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# Each chunk of the backward pass rewrites the whole gradient of the output layer: a GPU has room for larger ones.
CHUNK_BYTES = {"cpu": 64 * 2**20, "cuda": 512 * 2**20}


class _TokenLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden, weight, bias, targets, scale, with_entropy, is_wide):
        N, chunk = len(hidden), _chunk(weight)
        keep = chunk >= N and any(ctx.needs_input_grad)  # a single chunk waits for the backward pass as it is
        whole = None
        logp, lse, entropy = hidden.new_zeros(3, N, dtype=_wide(hidden.dtype))
        for i in range(0, N, chunk):
            s = slice(i, i + chunk)
            z = _logits(hidden[s], weight, bias, scale, is_wide)
            lse[s] = z.logsumexp(-1)
            logp[s] = z.gather(-1, targets[s, None]).squeeze(-1) - lse[s]
            if with_entropy or keep:
                z -= lse[s, None]
                whole = z if keep else None
            if with_entropy:
                entropy[s] = -(z.exp() * z.clamp(min=-1e9)).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, lse, entropy, whole)
        ctx.scale, ctx.with_entropy, ctx.is_wide = scale, with_entropy, is_wide
        ctx.mark_non_differentiable(*([] if with_entropy else [entropy]))
        return logp, entropy

    @staticmethod
    def backward(ctx, grad_logp, grad_entropy):  # pyright: ignore[reportIncompatibleMethodOverride]
        hidden, weight, bias, targets, lse, entropy, whole = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # accumulated at least in float32: nineteen bfloat16 additions would lose what one matrix product keeps
        grad_weight = torch.zeros_like(weight, dtype=_wide(weight.dtype)) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias) if bias is not None and ctx.needs_input_grad[2] else None
        chunk = _chunk(weight)
        for i in range(0, len(hidden), chunk):
            s = slice(i, i + chunk)
            z = (
                whole
                if whole is not None
                else _logits(hidden[s], weight, bias, ctx.scale, ctx.is_wide).sub_(lse[s, None])
            )
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
        return grad_hidden, grad_weight, grad_bias, None, None, None, None


def wide_linear(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """hidden Wᵀ + bias, `[N, H]` and `[V, H]` → `[N, V]` in float32, of factors in a half precision.

    As vLLM's float32 head (`LogitsProcessor._apply_head`, 0.32). A GPU adds up in float32 anyway, and then leaves out
    the rounding; a CPU makes a copy of the weight.
    """
    if hidden.is_cuda and hidden.dtype != torch.float32:
        z = torch.mm(hidden, weight.T, out_dtype=torch.float32)
    else:
        z = F.linear(hidden.float(), weight.float())
    return z if bias is None else z + bias.float()


def _logits(hidden, weight, bias, scale, is_wide):
    z = wide_linear(hidden, weight, bias) if is_wide else F.linear(hidden, weight, bias)
    z = z.to(_wide(z.dtype))
    return z if scale == 1.0 else z.mul_(scale)


def _wide(dtype) -> torch.dtype:
    """float32 for the half precisions, else the type itself."""
    return torch.promote_types(dtype, torch.float32)


def _chunk(weight) -> int:
    return max(1, CHUNK_BYTES[weight.device.type] // (4 * len(weight)))


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias=None,
    temperature: float = 1.0,
    with_entropy: bool = False,
    is_wide: bool = False,
) -> tuple[Tensor, Tensor]:
    """log softmax((hidden Wᵀ + bias)/T)[targets] and the entropy of the same softmax, in nats.

    hidden `[N, H]`, weight `[V, H]`, targets `[N]` → two `[N]`. Logits are made in the model's dtype, in float32 with
    `is_wide`; the rest is float32 (float64 for a float64 model). Peak memory is O(chunk · V) with chunk · V · 4 bytes
    ≤ CHUNK_BYTES, forward and backward; between the two nothing is kept unless one chunk holds all. Without
    `with_entropy` the entropy is zeros and has no gradient.
    """
    return _TokenLogProbs.apply(hidden, weight, bias, targets, 1.0 / temperature, with_entropy, is_wide)
