"""head_dtype="float32": logits that are not rounded to the model's dtype, by the trainer and by both samplers."""

import copy

import pytest
import torch
from torch.nn import functional as F

from dgpo import config as configs
from dgpo.evaluation.heldout import encode
from dgpo.model.loading import load_lm
from dgpo.model.logprobs import token_logprobs, wide_linear
from dgpo.model.policy import Policy
from dgpo.rollout import Sampling, TransformersSampler


@pytest.fixture(params=["bfloat16", "float16"])
def half(request, checkpoint):
    return load_lm(checkpoint, request.param)


def exact(hidden, weight, targets):
    return F.linear(hidden.double(), weight.double()).log_softmax(-1).gather(1, targets[:, None])[:, 0]


def test_log_probabilities_are_those_of_the_rounded_factors_and_no_further_rounding(monkeypatch):
    """Logits of 20 have steps of 1/8 in bfloat16."""
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 64, generator=generator).bfloat16() for n in (50, 300))
    targets = torch.randint(300, (50,), generator=generator)
    rounded, _ = token_logprobs(hidden, weight, targets)
    wide, _ = token_logprobs(hidden, weight, targets, is_wide=True)
    wanted = exact(hidden, weight, targets)
    assert (wide - wanted).abs().max() < 1e-4 < 1e-2 < (rounded - wanted).abs().max()


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_its_gradient_is_that_of_the_whole_matrix_in_whatever_chunks(monkeypatch, chunk):
    generator = torch.Generator().manual_seed(0)
    hidden, weight = (torch.randn(n, 16, generator=generator).bfloat16().requires_grad_() for n in (20, 30))
    bias = torch.randn(30, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(30, (20,), generator=generator)
    monkeypatch.setattr("dgpo.model.logprobs._chunk", lambda _: chunk)
    logp, entropy = token_logprobs(hidden, weight, targets, bias=bias, with_entropy=True, is_wide=True)
    got = torch.autograd.grad((logp + 0.1 * entropy).sum(), (hidden, weight, bias))
    z = F.linear(hidden.float(), weight.float(), bias.float()).log_softmax(-1)
    plain = z.gather(1, targets[:, None])[:, 0] - 0.1 * (z.exp() * z).sum(-1)
    for one, other in zip(got, torch.autograd.grad(plain.sum(), (hidden, weight, bias)), strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05)


def test_the_model_gives_float32_logits_so_trainer_and_embedded_sampler_agree_as_before(half):
    lm, tokenizer = half
    policy = Policy(lm, head_dtype="float32")
    ids = torch.tensor([[3, 4, 5]])
    hidden = lm.base_model(ids).last_hidden_state
    assert hidden.dtype == policy.lm.dtype
    logits = lm(ids).logits
    assert logits.dtype == torch.float32
    assert torch.equal(logits, wide_linear(hidden[0], policy.head.weight)[None])
    assert not torch.equal(logits, F.linear(hidden, policy.head.weight).float())
    prompts = encode(tokenizer, ["1 + 2 =", "3 + 3 ="])
    batch = TransformersSampler(policy, tokenizer, 8).generate(prompts, [1, 2], Sampling(8))
    assert (policy(batch)[0] - batch.rollout_logp).abs().max() < 0.05  # the cache's own rounding


def test_a_copy_computes_with_its_own_weights(half):
    policy = Policy(half[0], head_dtype="float32")
    other = copy.deepcopy(policy)
    other.head.weight.data.zero_()
    ids = torch.tensor([[3, 4]])
    assert not other.lm(ids).logits.any()
    assert policy.lm(ids).logits.any()


def test_a_float32_model_and_the_default_are_left_alone(checkpoint):
    for dtype, head in (("float32", "float32"), ("bfloat16", "model")):
        policy = Policy(load_lm(checkpoint, dtype)[0], head_dtype=head)
        assert not policy.is_wide
        assert policy.lm(torch.tensor([[3, 4]])).logits.dtype == policy.lm.dtype


def test_a_run_in_bfloat16_with_a_float32_head_starts_on_policy(small):
    from dgpo.run.rows import read_metrics
    from dgpo.trainer import train

    settings = {**small, "dtype": "bfloat16", "steps": 1, "zero_stage": 2}
    run = train(configs.make({**settings, "head_dtype": "float32"}))
    assert read_metrics(run)[-1]["mismatch/mean_abs"] < 0.01
