"""The embedded sampler: `transformers` generation with per-completion seeds.

In the trainer's process it generates with the trainer's own module, so there is nothing to load.
"""

from collections.abc import Iterable
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, LogitsProcessor

from dgpo.batch import Rollout, concatenate
from dgpo.model import lora
from dgpo.rollout.base import Sampler, Sampling


def stop_tokens(lm, tokenizer) -> list[int]:
    """The token ids that end a completion: the tokenizer's end of sequence and those of the generation settings."""
    stop = lm.generation_config.eos_token_id
    stop = [stop] if isinstance(stop, int) else list(stop or [])
    return sorted({*stop, tokenizer.eos_token_id})


class TransformersSampler(Sampler):
    """Batched, KV-cached, left-padded sampling; at most `rows` sequences at once."""

    def __init__(self, policy, tokenizer, rows: int):
        self.lm, self.rows, self.pad = policy.lm, rows, tokenizer.pad_token_id
        self.stop = stop_tokens(policy.lm, tokenizer)

    @torch.no_grad()
    def load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        if lora.is_adapted(self.lm):  # the trainer's own model, whose additions it computes with
            return
        own = dict(self.lm.named_parameters())
        for name, tensor in weights:
            if own[name].data_ptr() != tensor.data_ptr():
                own[name].copy_(tensor)

    @torch.no_grad()
    def generate(self, prompts: list[list[int]], seeds: list[int], sampling: Sampling) -> Rollout:
        # Neighbours in length share a call, so that little is padding; the order is restored at the end.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        parts = []
        for start in range(0, len(order), self.rows):
            rows = order[start : start + self.rows]
            parts.append(self._generate([prompts[i] for i in rows], [seeds[i] for i in rows], sampling))
        batch = concatenate(parts)
        return batch.select(torch.tensor(order).argsort()).replace(sequence_id=torch.arange(len(prompts)))

    def _generate(self, prompts, seeds, sampling):
        device = self.lm.device
        P, T = max(map(len, prompts)), sampling.max_new_tokens
        tokens = torch.tensor([[self.pad] * (P - len(p)) + p for p in prompts], device=device)
        attention = torch.tensor([[False] * (P - len(p)) + [True] * len(p) for p in prompts], device=device)
        draw = _Draw(seeds, sampling, device)
        with self._plain_generation():
            config = GenerationConfig(
                max_new_tokens=T, do_sample=False, eos_token_id=self.stop, pad_token_id=self.pad, use_cache=True
            )
            tokens = self.lm.generate(
                tokens,
                attention_mask=attention.long(),
                past_key_values=self._prefilled(prompts, tokens, attention),
                generation_config=config,
                logits_processor=[draw],
            )
        completion = tokens[:, P:]
        is_stop = torch.isin(completion, torch.tensor(self.stop, device=device))
        mask = is_stop.cumsum(1) - is_stop.int() == 0  # up to and with the first stop token
        return Rollout(
            input_ids=tokens,
            attention_mask=torch.cat([attention, mask], 1),
            mask=mask,
            rollout_logp=torch.where(mask, torch.stack(draw.logp, 1), 0),
            finished=is_stop.any(1),
            sequence_id=torch.arange(len(prompts), device=device),
        ).to("cpu")

    def _prefilled(self, prompts, tokens, attention) -> DynamicCache | None:
        """The cache of each row's prompt without its last token, computed once for all rows with that prompt.

        None where no two rows share one, and for architectures that keep another kind of state.
        """
        place: dict[tuple[int, ...], int] = {}
        which = [place.setdefault(tuple(prompt), len(place)) for prompt in prompts]
        if len(place) == len(prompts) or tokens.shape[1] == 1:
            return None
        rows = torch.tensor([which.index(i) for i in range(len(place))], device=tokens.device)
        live = attention[rows, :-1].long()
        cache = self.lm.base_model(
            input_ids=tokens[rows, :-1],
            attention_mask=live,
            position_ids=(live.cumsum(1) - 1).clamp(min=0),
            use_cache=True,
        ).past_key_values
        if not isinstance(cache, DynamicCache):
            return None
        cache.batch_select_indices(torch.tensor(which, device=tokens.device))
        return cache

    @contextmanager
    def _plain_generation(self):
        """Hide the checkpoint's generation_config, from which `generate` takes what it is not given, such as top-p."""
        was_training, saved = self.lm.training, self.lm.generation_config
        self.lm.generation_config = GenerationConfig()
        self.lm.eval()
        try:
            yield
        finally:
            self.lm.generation_config = saved
            self.lm.train(was_training)


class _Draw(LogitsProcessor):
    """Chooses the next token by inverting the cumulative distribution at a number drawn with the row's own seed.

    `generate` then takes the arg-max of what this returns. So a completion does not depend on its batch, and the
    token's log-probability is known without keeping the logits of every step.
    """

    def __init__(self, seeds: list[int], sampling: Sampling, device):
        rows = [
            torch.rand(sampling.max_new_tokens, generator=torch.Generator().manual_seed(s), dtype=torch.float64)
            for s in seeds
        ]
        self.uniform = torch.stack(rows, 1).to(device)  # [T, B]; float64: 24 bits would round small probabilities off
        self.temperature, self.top_p, self.logp = sampling.temperature, sampling.top_p, []

    def __call__(self, input_ids, scores):  # pyright: ignore[reportIncompatibleMethodOverride]
        logp = torch.log_softmax(scores.float() / self.temperature, -1)
        weights = logp.double().exp()
        cumulative = (_nucleus(weights, self.top_p) if self.top_p < 1 else weights).cumsum(-1)
        u = self.uniform[len(self.logp)].unsqueeze(1) * cumulative[:, -1:]
        token = torch.searchsorted(cumulative, u, right=True).clamp(max=scores.shape[-1] - 1)
        self.logp.append(logp.gather(1, token).squeeze(1))
        return torch.full_like(scores, -torch.inf).scatter_(1, token, 0.0)


def _nucleus(weights: Tensor, top_p: float) -> Tensor:
    """`weights` `[B, V]`, with 0 outside the smallest set with `top_p` of the total; the largest always stays."""
    ordered, index = weights.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    return torch.zeros_like(weights).scatter_(-1, index, ordered.where(before < top_p, 0))
