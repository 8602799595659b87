"""Check, when a policy is made, that log π is the log softmax of the model's output layer and nothing else."""

from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from dgpo.errors import ConfigError, first_line

_PEAK = 100.0  # the probe's largest logit: a soft cap bends it, but not the small logits of a new model


@torch.no_grad()
def check_output_layer(lm) -> None:
    """Raise ConfigError unless log π is log softmax of the output layer's product with the base model's hidden states.

    Some architectures scale or cap their logits, before or after that layer. The comparison is over the whole
    vocabulary at eight positions, with hidden states scaled to make the largest logit 100. The limit is twice the
    rounding of such a logit on either side.
    """
    kind, head = lm.config.model_type, lm.get_output_embeddings()
    if lm.base_model is lm or head is None:
        missing = "output layer" if head is None else "base model without its output layer"
        raise ConfigError(f"model_type={kind!r} is not supported: transformers gives it no {missing}")
    inputs = {"input_ids": ordinary_tokens(lm, 8)[None], "use_cache": False}
    with own_code(lm):
        hidden = lm.base_model(**inputs).last_hidden_state
        peak = float(F.linear(hidden, head.weight, getattr(head, "bias", None)).abs().max())
        with _stretched(head, _PEAK / peak if peak > 0 else 1.0) as stretches:
            theirs = lm(**inputs).logits.float()
        factor = stretches[0] if stretches else 1.0  # none where a model multiplies by the weight without the layer
        ours = F.linear(hidden * factor, head.weight, getattr(head, "bias", None)).float()
    if not (ours.isfinite().all() and theirs.isfinite().all()):
        raise ConfigError(f"model_type={kind!r}: its logits are NaN or infinite")
    off = (
        float((ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max()) if ours.shape == theirs.shape else torch.inf
    )
    if off > 4 * torch.finfo(head.weight.dtype).eps * float(ours.abs().max()):
        raise ConfigError(
            f"model_type={kind!r} changes its logits after the output layer, which is not supported: where they reach "
            f"{float(ours.abs().max()):.3g}, log-probabilities would be off by up to {off:.2g} nats"
        )


def ordinary_tokens(lm, count: int) -> Tensor:
    """Up to `count` different token ids spread over the vocabulary, on the model's device.

    Special tokens and rows of zeros are left out: a pad token often has such a row, which would show nothing.
    """
    weight, config = lm.get_input_embeddings().weight, lm.config
    special = [getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos")]
    special = {i for ids in special for i in (ids if isinstance(ids, list) else [ids])}
    spread = torch.linspace(0, len(weight) - 1, 4 * count).long().unique()
    usual = [i for i in spread.tolist() if i not in special and bool(weight[i].any())] or spread.tolist()
    picked = torch.linspace(0, len(usual) - 1, min(count, len(usual))).long()
    return torch.tensor(usual)[picked].to(weight.device)


@contextmanager
def own_code(lm):
    """Name the model in an error of its own code: the input is a plain batch."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        said = f"{type(error).__name__}: {first_line(error)}"
        raise ConfigError(f"model_type={lm.config.model_type!r} does not compute a plain batch: {said}") from error


@contextmanager
def _stretched(head, factor: float):
    """Multiply what enters the output layer by `factor`; a list of the factors used."""
    used = []

    def stretch(_layer, inputs):
        used.append(factor)
        return (inputs[0] * factor, *inputs[1:])

    hook = head.register_forward_pre_hook(stretch)
    try:
        yield used
    finally:
        hook.remove()
