"""Token log-probabilities in chunks against the naive computation, and the Policy against the model it wraps."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from running import make_batch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from dgpo.model import logprobs
from dgpo.model.loading import load_lm
from dgpo.model.logprobs import token_logprobs
from dgpo.model.policy import Policy


def naive(hidden, weight, targets, bias=None, temperature=1.0):
    logp = (F.linear(hidden, weight, bias) / temperature).log_softmax(-1)
    return logp.gather(1, targets[:, None]).squeeze(1), -(logp.exp() * logp).sum(-1)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("tokens_a_chunk", [1, 3, 100])
def test_values_and_gradients_equal_the_naive_ones(monkeypatch, tokens_a_chunk, temperature, with_bias):
    N, H, V = 10, 8, 31
    monkeypatch.setitem(logprobs.CHUNK_BYTES, "cpu", tokens_a_chunk * 4 * V)
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator).requires_grad_()  # noqa: E731
    hidden, weight, bias = draw(N, H), draw(V, H), draw(V) if with_bias else None
    targets = torch.randint(V, (N,), generator=generator)
    mix = torch.randn(2, N, generator=generator)
    inputs = [x for x in (hidden, weight, bias) if x is not None]

    expected = naive(hidden, weight, targets, bias, temperature)
    expected_grad = torch.autograd.grad((mix[0] * expected[0] + mix[1] * expected[1]).sum(), inputs)
    ours = token_logprobs(hidden, weight, targets, bias=bias, temperature=temperature, with_entropy=True)
    grad = torch.autograd.grad((mix[0] * ours[0] + mix[1] * ours[1]).sum(), inputs)
    for a, b in zip((*ours, *grad), (*expected, *expected_grad), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

    logp, entropy = token_logprobs(hidden, weight, targets, bias=bias, temperature=temperature)
    assert not entropy.requires_grad
    only = torch.autograd.grad((mix[0] * logp).sum(), inputs)
    naive_only = torch.autograd.grad((mix[0] * naive(hidden, weight, targets, bias, temperature)[0]).sum(), inputs)
    for a, b in zip(only, naive_only, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_bfloat16_models_give_float32_log_probabilities():
    """Quantised to bfloat16, log-probabilities near −0.2 step by 1/1024: more than a ratio of 1.0005 apart."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, 32, generator=generator).bfloat16()
    weight = torch.randn(50, 32, generator=generator).bfloat16().requires_grad_()
    targets = torch.randint(50, (64,), generator=generator)
    logp, _ = token_logprobs(hidden, weight, targets)
    assert logp.dtype == torch.float32
    assert (logp != logp.bfloat16().float()).any()
    logits = F.linear(hidden, weight).float().detach()
    torch.testing.assert_close(logp, logits.log_softmax(-1).gather(1, targets[:, None]).squeeze(1))
    (grad,) = torch.autograd.grad(logp.sum(), weight)
    assert grad.dtype == torch.bfloat16


def test_words_of_probability_0_do_not_make_nan():
    hidden = torch.ones(2, 1, requires_grad=True)
    weight = torch.tensor([[0.0], [1.0], [-torch.inf]])
    logp, entropy = token_logprobs(hidden, weight, torch.tensor([0, 1]), with_entropy=True)
    assert logp.isfinite().all()
    torch.testing.assert_close(entropy, naive(torch.ones(2, 1), weight[:2], torch.tensor([0, 1]))[1])


@pytest.fixture(scope="module")
def lm(checkpoint):
    return load_lm(checkpoint)[0]


def test_policy_equals_the_model_sequence_by_sequence(lm):
    """Left padding, right padding and neighbours leave a sequence's log-probabilities as they are alone."""
    prompts, completions = [[5, 6], [7, 8, 9, 10], [11]], [[12, 13, 14], [15], [3, 4]]
    logp, entropy = Policy(lm, temperature=0.7)(make_batch(prompts, completions), with_entropy=True)
    for i, (p, c) in enumerate(zip(prompts, completions, strict=True)):
        expected = (lm(torch.tensor([p + c])).logits[0] / 0.7).log_softmax(-1)[len(p) - 1 : -1]
        torch.testing.assert_close(logp[i, : len(c)], expected[torch.arange(len(c)), c], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(entropy[i, : len(c)], -(expected.exp() * expected).sum(-1), rtol=1e-4, atol=1e-5)
        assert (logp[i, len(c) :] == 0).all()


def test_a_batch_without_a_live_token_has_a_zero_gradient(lm):
    batch = make_batch([[5, 6], [7]], [[12], [13]])
    batch = batch.replace(mask=torch.zeros_like(batch.mask))
    policy = Policy(lm)
    policy.zero_grad()
    policy(batch)[0].sum().backward()
    assert all(p.grad is None or (p.grad == 0).all() for p in policy.parameters())


def test_selecting_sequences_trims_padding_and_keeps_the_numbers(lm):
    batch = make_batch([[5, 6], [7, 8, 9, 10], [11]], [[12, 13, 14], [15], [3, 4]])
    logp = Policy(lm)(batch)[0]
    part = batch.select(torch.tensor([2, 0]))
    assert part.input_ids.shape == (2, 2 + 3)
    assert part.sequence_id.tolist() == [2, 0]
    torch.testing.assert_close(Policy(lm)(part)[0], logp[[2, 0]], rtol=1e-4, atol=1e-5)


def test_right_padded_sequences_have_the_same_numbers(lm):
    batch = make_batch([[5, 6], [7, 8, 9, 10], [11]], [[12, 13, 14], [15], [3, 4]])
    for a, b in zip(Policy(lm)(batch, True), Policy(lm, right_padded=True)(batch, True), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12), st.integers(18, 60))
def test_micro_batches_by_tokens_keep_the_budget_and_every_sequence(lengths, budget):
    batch = make_batch([[1] * p for p, _ in lengths], [[2] * c for _, c in lengths])
    total = batch.attention_mask.sum(1)
    parts = batch.micro_batches(1, budget)
    assert torch.cat(parts).sort().values.tolist() == list(range(len(lengths)))
    for part, later in zip(parts, [*parts[1:], None], strict=True):
        longest = int(total[part].max())
        assert len(part) * longest <= budget
        if later is not None:  # not one more would have fitted
            assert (len(part) + 1) * longest > budget
            assert total[later].max() <= total[part].min()


def test_a_sequence_above_the_budget_is_named():
    with pytest.raises(ValueError, match="a sequence of 5 tokens does not fit a micro-batch of 4"):
        make_batch([[5, 6]], [[1, 2, 3]]).micro_batches(1, 4)


def test_other_architectures_work(tmp_path):
    torch.manual_seed(0)
    lm = GPT2LMHeadModel(
        GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=1)
    ).eval()
    prompts, completions = [[5, 6], [7, 8, 9]], [[12, 13], [3]]
    logp, _ = Policy(lm)(make_batch(prompts, completions))
    expected = lm(torch.tensor([[5, 6, 12, 13]])).logits[0].log_softmax(-1)
    torch.testing.assert_close(logp[0], torch.stack([expected[1, 12], expected[2, 13]]), rtol=1e-4, atol=1e-5)
