"""Advantages, what a token counts for, KL, and the invariance of the gradient to how a batch is cut."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dgpo import methods
from dgpo.batch import Scored
from dgpo.model.loading import load_lm
from dgpo.model.policy import Policy
from dgpo.objective import (
    AGGREGATIONS,
    KL_KINDS,
    adapted_kl_coef,
    group_advantages,
    kl_penalty,
    loss_weights,
    objective,
    overlong_penalty,
    surrogate,
    zero_variance,
)


def test_group_advantages_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]], dtype=torch.float64)
    std = math.sqrt((0.75**2 + 3 * 0.25**2) / 3)  # the sample standard deviation
    assert group_advantages(rewards, "grpo")[0].tolist() == pytest.approx(
        [0.75 / (std + 1e-6)] + [-0.25 / (std + 1e-6)] * 3
    )
    assert group_advantages(rewards, "mean")[0].tolist() == pytest.approx([0.75, -0.25, -0.25, -0.25])
    assert group_advantages(rewards, "rloo")[0].tolist() == pytest.approx([1.0, -1 / 3, -1 / 3, -1 / 3])
    assert torch.equal(group_advantages(rewards, "none"), rewards)
    assert group_advantages(rewards, "maxrl")[0].tolist() == pytest.approx([3.0, -1.0, -1.0, -1.0])
    assert group_advantages(rewards, "maxrl")[1].tolist() == [0.0] * 4
    assert group_advantages(torch.tensor([[0.0] * 4, [-3.0, 1.0, 0.0, 0.0]]), "maxrl").tolist() == [[0.0] * 4] * 2
    assert group_advantages(rewards, "batch-mean").flatten().tolist() == pytest.approx(
        [0.625, -0.375, -0.375, -0.375, 0.125, 0.125, 0.125, 0.125]
    )


@given(st.floats(-10, 10, width=32), st.integers(2, 16))
def test_equal_rewards_have_exactly_no_advantage(reward, n):
    """A float32 mean of equal numbers can be one ulp off, which std + 1e-6 would blow up to something."""
    for kind in ("grpo", "mean", "rloo", "maxrl", "batch-mean"):
        assert (group_advantages(torch.full((3, n), reward), kind) == 0).all()


def test_a_group_of_one_has_mean_0_and_std_1():
    rewards = torch.tensor([[1.0], [-2.0]])
    torch.testing.assert_close(group_advantages(rewards, "grpo"), rewards, rtol=1e-5, atol=0)
    assert torch.equal(group_advantages(rewards, "rloo"), rewards)
    assert torch.equal(group_advantages(rewards, "mean"), rewards)


def test_unknown_kinds_list_the_known_ones():
    with pytest.raises(ValueError, match=r"advantage='gae' must be one of grpo, mean, rloo, maxrl, batch-mean, none"):
        group_advantages(torch.zeros(1, 2), "gae")
    with pytest.raises(ValueError, match=r"shape \(3,\); expected \[prompts, completions\]"):
        group_advantages(torch.zeros(3))
    with pytest.raises(ValueError, match=r"loss_aggregation='mean' must be one of token-mean"):
        loss_weights(torch.ones(1, 2), "mean")
    with pytest.raises(ValueError, match="needs a positive length"):
        loss_weights(torch.ones(1, 2), "constant")
    with pytest.raises(ValueError, match="kl='k4' must be one of unbiased, k1, k2, k3"):
        kl_penalty(torch.zeros(1), torch.zeros(1), "k4")


def test_zero_variance_groups():
    assert zero_variance(torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.1, 0.1]])).tolist() == [True, False, True]


def test_overlong_penalty_by_hand():
    length = torch.tensor([[0, 60], [70, 80], [90, 100]])
    expected = torch.tensor([[0, 0], [-0.25, -0.5], [-0.75, -1]])
    torch.testing.assert_close(overlong_penalty(length, limit=100, window=40), expected)


def test_token_coefficients_by_hand():
    mask = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]]).bool()  # the last completion is empty
    by_token = loss_weights(mask, "token-mean")
    assert by_token[mask].tolist() == pytest.approx([1 / 5] * 5)
    by_sequence = loss_weights(mask, "seq-mean-token-mean")
    assert by_sequence[mask].tolist() == pytest.approx([1 / 8] * 4 + [1 / 2])
    assert loss_weights(mask, "seq-mean-token-sum")[mask].tolist() == pytest.approx([1 / 2] * 5)
    assert loss_weights(mask, "constant", length=10)[mask].tolist() == pytest.approx([1 / 20] * 5)
    for how in AGGREGATIONS:
        assert (loss_weights(mask, how, length=10)[~mask] == 0).all()


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_fully_masked_batches_cost_nothing(how):
    mask = torch.zeros(2, 3, dtype=torch.bool)
    logp = torch.full((2, 3), math.nan, requires_grad=True)
    coefficient = loss_weights(mask, how, length=4)
    loss = surrogate(logp, torch.full((2, 3), math.nan), torch.ones(2, 1), coefficient)
    loss.backward()
    assert loss.item() == 0
    assert (logp.grad == 0).all()


def test_kl_estimators_average_to_the_kl_of_two_softmax_policies():
    generator = torch.Generator().manual_seed(0)
    p, q = (torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(0) for _ in range(2))
    exact = (p.exp() * (p - q)).sum()
    for kind in ("k1", "k3"):
        torch.testing.assert_close((p.exp() * kl_penalty(p, q, kind)).sum(), exact)
    assert (kl_penalty(p, q, "k3") >= 0).all()
    close = p + 0.01 * (q - p)
    close = close.log_softmax(0)
    small = (p.exp() * (p - close)).sum()
    assert (p.exp() * kl_penalty(p, close, "k2")).sum().item() == pytest.approx(small.item(), rel=0.05)


def test_gradients_of_the_kl_estimators_are_what_the_docstring_says():
    """Expected over tokens sampled from π: k1 has none, k2 that of KL(π‖ref), k3 that of KL(ref‖π)."""
    generator = torch.Generator().manual_seed(0)
    z, reference = (
        torch.randn(6, generator=generator, dtype=torch.float64),
        torch.randn(6, generator=generator, dtype=torch.float64),
    )
    reference = reference.log_softmax(0)

    def gradient(f):
        logits = z.clone().requires_grad_()
        return torch.autograd.grad(f(logits.log_softmax(0)), logits)[0]

    estimated = {
        kind: gradient(lambda lp, kind=kind: (lp.exp().detach() * kl_penalty(lp, reference, kind)).sum())
        for kind in ("k1", "k2", "k3")
    }
    torch.testing.assert_close(estimated["k1"], torch.zeros(6, dtype=torch.float64))
    torch.testing.assert_close(estimated["k2"], gradient(lambda lp: (lp.exp() * (lp - reference)).sum()))
    torch.testing.assert_close(estimated["k3"], gradient(lambda lp: (reference.exp() * (reference - lp)).sum()))


@pytest.mark.parametrize("distance", [0.0, 0.5, 2.0])
def test_only_the_unbiased_kind_has_the_gradient_of_the_kl_off_policy_too(distance):
    """Exact sums over 12 tokens drawn from π_old, against autograd of KL(π ‖ ref) itself."""
    generator = torch.Generator().manual_seed(1)
    z, reference, step = (torch.randn(12, generator=generator, dtype=torch.float64) for _ in range(3))
    old, reference = (z - distance * step).log_softmax(0), reference.log_softmax(0)

    def gradient(f):
        logits = z.clone().requires_grad_()
        return torch.autograd.grad(f(logits.log_softmax(0)), logits)[0]

    true = gradient(lambda lp: (lp.exp() * (lp - reference)).sum())
    error = {
        kind: (gradient(lambda lp, k=kind: (old.exp() * kl_penalty(lp, reference, k, old)).sum()) - true).norm()
        / true.norm()
        for kind in KL_KINDS
    }
    now = z.log_softmax(0)
    value = (old.exp() * kl_penalty(now, reference, "unbiased", old)).sum()
    torch.testing.assert_close(value, (now.exp() * (now - reference)).sum())
    assert error["unbiased"] < 1e-12
    assert min(error["k1"], error["k3"]) > 0.1
    assert (error["k2"] < 1e-12) == (distance == 0)
    with pytest.raises(ValueError, match="kl='unbiased' needs old_logp"):
        kl_penalty(now, reference, "unbiased")


@pytest.fixture(scope="module")
def policy(checkpoint):
    return Policy(load_lm(checkpoint)[0])


@pytest.fixture(scope="module")
def batch():
    """Eight sequences of unequal prompts and completions, one of them empty, with ratios well off 1."""
    generator = torch.Generator().manual_seed(3)
    B, P, T = 8, 5, 7
    tokens = torch.randint(2, 21, (B, P + T), generator=generator)
    prompt = torch.arange(P) >= P - torch.tensor([5, 3, 4, 5, 2, 5, 1, 4])[:, None]
    mask = torch.arange(T) < torch.tensor([7, 1, 4, 0, 6, 2, 5, 3])[:, None]
    random = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return Scored(
        input_ids=tokens,
        attention_mask=torch.cat([prompt, mask], 1),
        mask=mask,
        rollout_logp=torch.zeros(B, T),
        finished=torch.ones(B, dtype=torch.bool),
        sequence_id=torch.arange(B),
        advantage=random(B, 1),
        old_logp=-3 + random(B, T),
        entropy=torch.zeros(B, T),
        ref_logp=-3 + random(B, T),
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("key", ["dgpo", "grpo", "gspo"])
@pytest.mark.parametrize("how", AGGREGATIONS)
def test_one_by_eight_accumulation_equals_eight_by_one(policy, batch, key, how, dtype, tolerance):
    """A batch's gradient is the same however it is cut; lengths differ, so a mean of means would not be."""
    method, policy = methods.get(key, eps_low=0.2, eps_high=0.2), copy.deepcopy(policy).to(dtype)
    whole = batch.weighted(loss_weights(batch.mask, how, length=9))

    def gradient(rows, tokens=None):
        policy.zero_grad()
        policy.right_padded = tokens is not None
        for micro in map(whole.select, whole.micro_batches(rows, tokens)):
            logp, entropy = policy(micro, with_entropy=True)
            objective(logp, entropy, micro, method, kl="k3", kl_coef=0.1, entropy_coef=0.01)[0].backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters()])

    together = gradient(8)
    assert together.norm() > 1e-3
    for cut in ((1,), (3,), (8, 12), (8, 20), (8, 96)):
        apart = gradient(*cut)
        assert (apart - together).norm() <= tolerance * together.norm()


def test_masked_garbage_in_every_field_changes_nothing(policy, batch):
    def gradient(batch):
        policy.zero_grad()
        batch = batch.weighted(loss_weights(batch.mask))
        logp, entropy = policy(batch, with_entropy=True)
        loss, w_log = objective(logp, entropy, batch, methods.get("dgpo"), kl_coef=0.1, entropy_coef=0.1)
        loss.backward()
        return torch.cat([p.grad.flatten() for p in policy.parameters()]), w_log

    dirty = batch.replace(
        old_logp=torch.where(batch.mask, batch.old_logp, math.nan),
        ref_logp=torch.where(batch.mask, batch.ref_logp, math.inf),
        input_ids=torch.where(batch.attention_mask, batch.input_ids, 7),
    )
    (clean_grad, clean_w), (dirty_grad, dirty_w) = gradient(batch), gradient(dirty)
    assert torch.equal(clean_w, dirty_w)
    torch.testing.assert_close(clean_grad, dirty_grad, rtol=1e-6, atol=1e-9)


def test_objective_adds_kl_and_entropy_with_their_signs(policy, batch):
    batch = batch.weighted(loss_weights(batch.mask))
    logp, entropy = policy(batch, with_entropy=True)
    method = methods.get("pg")
    plain, _ = objective(logp, entropy, batch, method)
    with_both, _ = objective(logp, entropy, batch, method, kl="k1", kl_coef=0.5, entropy_coef=0.25)
    live = batch.mask
    expected = plain + 0.5 * (logp - batch.ref_logp)[live].mean() - 0.25 * entropy[live].mean()
    torch.testing.assert_close(with_both, expected)


def test_the_kl_coefficient_moves_towards_the_target_by_a_fifth_at_most():
    """Values of verl's AdaptiveKLController at target 0.1 and 256 completions of a horizon of 1,024."""
    for kl, factor in ((0.1, 1), (0.11, 1.025), (0.09, 0.975), (5.0, 1.05), (0.0, 0.95)):
        assert adapted_kl_coef(2.0, kl, 0.1, 256 / 1024) == pytest.approx(2 * factor)
