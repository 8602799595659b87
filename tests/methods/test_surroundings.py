"""What a method may see and do beyond a token's weight: `needs` and `penalty`."""

import math

import published
import pytest
import torch

import dgpo
from dgpo import methods
from dgpo.integrations import common
from dgpo.objective import surrogate

F64 = torch.float64


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(3)
    old = -3 * torch.rand(12, 9, generator=generator, dtype=F64) - 0.1
    logp = old + 0.5 * torch.randn(12, 9, generator=generator, dtype=F64)
    A = torch.randn(12, 1, generator=generator, dtype=F64).expand(12, 9).clone()
    return logp, old, A, 2 * torch.rand(12, 9, generator=generator, dtype=F64)


def gradient(method, logp, old, A, entropy, entropy_now=None):
    x, mask = logp.clone().requires_grad_(), torch.ones_like(logp, dtype=torch.bool)
    w_log, penalty = method.coefficients(x, old, A, mask, entropy, entropy_now)
    surrogate(x, w_log, A, torch.ones_like(x), penalty).backward()
    return x.grad


def published_gradient(loss, logp, *rest):
    x = logp.clone().requires_grad_()
    loss(x, *rest).sum().backward()
    return x.grad


def test_aspo_entropy_has_the_gradient_of_its_code_with_the_uncertain_fifth_clipped_wider(batch):
    logp, old, A, entropy = batch
    sure = entropy <= entropy.quantile(0.8, dim=1, keepdim=True)
    assert (~sure).sum(1).tolist() == [2] * 12
    ours = gradient(methods.get("aspo_entropy"), *batch)
    torch.testing.assert_close(ours, published_gradient(published.archer, logp, old, A, sure, 0.2, 0.4, 3.0))
    assert not torch.allclose(ours, gradient(methods.get("aspo"), *batch))
    same = methods.get("aspo_entropy", eps_low_uncertain=0.2, eps_high_uncertain=0.2)
    assert torch.equal(gradient(same, *batch), gradient(methods.get("aspo"), *batch))


def test_the_quantile_is_of_the_live_tokens_of_each_completion(batch):
    logp, old, A, entropy = batch
    mask = torch.arange(9) < torch.tensor([[5]] * 12)
    dirty = torch.where(mask, entropy, math.nan)
    method = methods.get("aspo_entropy")
    padded = method.weight(logp, old, A, mask, dirty)
    torch.testing.assert_close(padded[:, :5], method.weight(*(x[:, :5] for x in (logp, old, A)), None, entropy[:, :5]))
    with pytest.raises(ValueError, match=r"ASPOEntropy\.weight needs entropy=, of the policy that sampled"):
        method.weight(logp, old, A)
    with pytest.raises(ValueError, match=r"entropy has shape \(2, 2\), which does not broadcast"):
        method.weight(logp, old, A, None, torch.ones(2, 2))


@pytest.mark.parametrize("dual_clip", [None, 3.0])
def test_erc_has_the_gradient_of_its_code_and_drops_tokens_on_both_sides_of_the_band(batch, dual_clip):
    logp, old, A, entropy = batch
    now = entropy * torch.linspace(0.9, 1.1, entropy.numel(), dtype=F64).view_as(entropy)
    method = methods.get("erc", dual_clip=dual_clip)
    ours = gradient(method, *batch, now)
    rest = (entropy, now, 0.2, 0.2, dual_clip, 0.95, 1.05)
    torch.testing.assert_close(ours, published_gradient(published.erc, logp, old, A, *rest))
    assert (ours[:3] == 0).all()
    assert (ours[9:] == 0).all()
    grpo = methods.get("grpo", dual_clip=dual_clip)
    assert torch.equal(gradient(method, *batch, entropy), gradient(grpo, *batch))
    with pytest.raises(ValueError, match=r"ERC\.weight needs entropy_now=, of the policy that is being updated"):
        method.weight(logp, old, A, None, entropy)
    x = logp.clone().requires_grad_()
    given = {"loss_aggregation": "token-mean", "entropy": entropy, "entropy_now": now}
    dgpo.policy_loss(x, old, A, torch.ones_like(x), method, **given).backward()
    torch.testing.assert_close(x.grad, ours / ours.numel(), rtol=1e-6, atol=1e-9)  # float32 loss weights


def test_clip_cov_has_the_gradient_of_its_code_and_drops_a_share_of_its_candidates(batch):
    logp, old, A, _ = batch
    bounds = {"cov_low": 0.2, "cov_high": 1.5}
    everyone = gradient(methods.get("clip_cov", share=0.9, **bounds), *batch)
    torch.testing.assert_close(everyone, published_gradient(published.clip_cov, logp, old, A, 0.2, 0.9, 0.2, 1.5))
    grpo, some = gradient(methods.get("grpo"), *batch), gradient(methods.get("clip_cov", share=0.05, **bounds), *batch)
    dropped = some != grpo
    assert dropped.sum() == int(0.05 * grpo.numel())
    assert ((everyone == 0) & (some == 0))[dropped].all()
    assert torch.equal(gradient(methods.get("clip_cov", cov_low=50, cov_high=60), *batch), grpo)
    with pytest.raises(ValueError, match=r"method 'clip_cov': cov_low=5 must be below cov_high=5\.0"):
        methods.get("clip_cov", cov_low=5)


@pytest.mark.parametrize(("target", "bounds"), [(0.1, (0.6, 1.2)), (0.85, (0.8, 1.55)), (50.0, (0.8, 2.0))])
def test_bapo_has_the_gradient_of_its_code_at_both_ends_of_the_search_and_between(batch, target, bounds):
    logp, old, A, _ = batch
    method = methods.get("bapo", target=target)
    theirs = published_gradient(published.bapo, logp, old, A, (0.6, 1.2), (0.8, 2.0), 0.05, target, 3.0)
    torch.testing.assert_close(gradient(method, *batch), theirs)
    assert method.bounds((logp - old).exp(), A) == pytest.approx(bounds)


@pytest.mark.parametrize(
    ("key", "params", "loss"), [("kl_cov", {"share": 0.1}, published.kl_cov), ("dro", {"beta": 0.3}, published.dro)]
)
def test_a_penalty_is_the_part_of_the_published_gradient_that_is_no_multiple_of_the_advantage(batch, key, params, loss):
    logp, old, A, entropy = batch
    A = A * (torch.arange(12)[:, None] > 3)  # four sequences without advantage: the penalty is all they have
    method = methods.get(key, **params)
    ours = gradient(method, logp, old, A, entropy)
    torch.testing.assert_close(ours, published_gradient(loss, logp, old, A, *method.params().values()))
    if key == "dro":
        torch.testing.assert_close(ours[:4], 0.3 * (logp - old)[:4])
    x = logp.clone().requires_grad_()
    dgpo.policy_loss(x, old, A, torch.ones_like(x), method, loss_aggregation="token-mean").backward()
    torch.testing.assert_close(x.grad, ours / ours.numel(), rtol=1e-6, atol=1e-9)  # float32 loss weights


@pytest.mark.parametrize("key", [key for key in methods.names() if "batch" in methods.get_class(key).needs])
def test_a_method_of_the_batch_is_another_one_on_a_part_of_it(batch, key):
    """So the trainer has to weigh before it cuts."""
    logp, old, A, now = batch
    method = methods.get(key, **({"cov_low": 0.2} if key == "clip_cov" else {}))
    given = [logp, old, A, torch.ones_like(A), now]
    whole, parts = gradient(method, *given), []
    for rows in torch.arange(12).split(3):
        parts.append(gradient(method, *(x[rows] for x in given)))
    assert not torch.allclose(whole, torch.cat(parts))


def test_top_entropy_is_the_hard_clip_on_the_most_uncertain_fifth_of_the_live_tokens(batch):
    logp, old, A, entropy = batch
    mask = torch.arange(9) < torch.tensor([[5]] * 12)
    given = (logp, old, A, mask)
    w_log = methods.get("top_entropy").weight(*given, entropy_now=torch.where(mask, entropy, math.nan))
    kept = torch.zeros(12, 9, dtype=torch.bool)
    kept[mask] = entropy[mask].argsort(descending=True).argsort() < 12  # a fifth of 60
    torch.testing.assert_close(w_log, methods.get("grpo").weight(*given) * kept)


def test_what_a_method_needs_is_declared_in_known_words():
    for needs in (("entropies",), "entropy", ["batch"]):
        with pytest.raises(
            TypeError, match=r"Odd\.needs=.* must be a tuple of some of sequence, entropy, entropy_now, batch"
        ):
            type("Odd", (methods.Method,), {"needs": needs})


def test_methods_without_a_curve_are_refused_where_one_is_drawn_and_in_other_trainers():
    for key in methods.names():
        without = key in ("aspo_entropy", "erc", "top_entropy", "bapo", "clip_cov", "kl_cov", "dro")
        assert methods.get(key).has_curve() == (not without)
        assert (key in common.supported()) == (not without)
    with pytest.raises(ValueError, match="bapo has no curve"):
        dgpo.plot("bapo")
    with pytest.raises(ValueError, match="method='dro' needs entropies, the whole optimizer batch or a penalty"):
        common.make_method("dro")
