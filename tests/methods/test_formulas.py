"""The weights of each method: recorded values, published losses by autograd, and the formulas of single methods."""

import json
import math
from pathlib import Path

import published
import pytest
import torch
from weighing import F64, weigh

from dgpo import methods
from dgpo.objective import loss_weights, surrogate

ROWS = json.loads((Path(__file__).with_name("weights.json")).read_text())["rows"]
RATIOS = torch.tensor(
    [1e-3, 0.1, 0.5, 0.79, 0.81, 0.9, 1.0, 1.1, 1.19, 1.21, 1.27, 1.29, 1.5, 2.9, 3.1, 4.0, 9.9, 20.0], dtype=F64
)


@pytest.mark.parametrize("row", ROWS, ids=lambda r: f"{r['method']}-{r['advantage']:+.0f}-{r['ratio']}")
def test_recorded_values_follow_from_the_formula_and_the_code(row):
    derived = published.closed_form(row["method"], row["params"], row["pi_old"], row["advantage"], row["ratio"])
    assert derived == pytest.approx(row["w_log"], rel=1e-12, abs=1e-300)
    ours = weigh(methods.get(row["method"], **row["params"]), row["ratio"], row["advantage"], row["pi_old"])
    assert ours.item() == pytest.approx(row["w_log"], rel=1e-10, abs=1e-300)


@pytest.mark.parametrize("advantage", [2.0, -0.7])
@pytest.mark.parametrize(
    ("key", "params"),
    [(key, {}) for key in published.LOSSES]
    + [
        ("grpo", {"dual_clip": 3.0}),
        ("dppo", {"divergence": "kl", "delta": 0.05}),
        ("ipo", {"eps": 0.02}),
        ("kpop", {"phi": 0.01}),
        ("ripo", {"delta": 0.001}),
        ("dispo", {"eps_low_pos": 0.3, "eps_high_pos": 4.0, "eps_low_neg": 0.1, "eps_high_neg": 1.0}),
    ],
)
def test_surrogate_gradient_is_that_of_the_published_loss(key, params, advantage):
    """Logits of a softmax policy over 40 tokens, one row a ratio: autograd of ours against autograd of theirs."""
    method = methods.get(key, **params)
    probability = 0.04 * RATIOS  # of token 0, up to 0.8
    logits = torch.cat([probability[:, None], ((1 - probability) / 39)[:, None].expand(-1, 39)], 1).log()
    old = torch.full((len(RATIOS),), math.log(0.04), dtype=F64)
    A = torch.full_like(old, advantage)

    def gradient(loss):
        z = logits.clone().requires_grad_()
        return torch.autograd.grad(loss(z.log_softmax(-1)[:, 0]), z)[0]

    def ours(lp):
        w = method.weight(lp[:, None], old[:, None], A[:, None])
        return surrogate(lp[:, None], w, A[:, None], torch.ones_like(w))

    theirs = gradient(lambda lp: published.LOSSES[key](lp, old, A, **method.params()).sum())
    torch.testing.assert_close(gradient(ours), theirs, rtol=1e-10, atol=1e-14)
    closed = (
        -A[:, None] * weigh(method, RATIOS, advantage, 0.04)[:, None] * (torch.eye(40, dtype=F64)[0] - logits.exp())
    )
    torch.testing.assert_close(gradient(ours), closed, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(
    ("key", "params", "loss", "drops"),
    [
        ("gspo", {"eps_low": 0.1, "eps_high": 0.15}, published.gspo_sequence, True),
        ("gmpo", {"eps_low": 0.1, "eps_high": 0.15}, published.gmpo_sequence, True),
        ("luspo", {"eps_low": 0.1, "eps_high": 0.15}, published.luspo_sequence, True),
        ("vespo", {}, published.vespo_sequence, False),
        ("opsm", {"delta": 0.1}, published.opsm_sequence, True),
    ],
)
def test_sequence_methods_have_the_gradient_of_their_sequence_loss(key, params, loss, drops):
    method = methods.get(key, **params)
    generator = torch.Generator().manual_seed(0)
    old = -3 * torch.rand(12, 7, generator=generator, dtype=F64)
    delta = 0.3 * torch.randn(12, 7, generator=generator, dtype=F64) + torch.linspace(-0.3, 0.3, 12, dtype=F64)[:, None]
    A = torch.tensor([1.0, -1.0] * 6, dtype=F64)
    ours, theirs = (old + delta).requires_grad_(), (old + delta).requires_grad_()
    w = method.weight(ours, old, A[:, None])
    coefficient = loss_weights(torch.ones_like(old, dtype=torch.bool), method.aggregation).double()
    surrogate(ours, w, A[:, None], coefficient).backward()
    loss(theirs, old, A, **method.params()).mean().backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-9)  # coefficients are float32
    assert (w == 0).any() == drops
    assert w.unique().numel() > 2


def test_opsm_drops_whole_bad_sequences_and_no_good_one():
    old = torch.full((4, 3), -2.0)
    delta = torch.tensor([[-0.3, 0.1, -0.1], [-0.3, 0.1, -0.1], [0.1, 0.0, 0.0], [-0.3, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 1], [0, 1, 1]]).bool()
    w = methods.get("opsm", delta=0.09).weight(old + delta, old, torch.tensor([[-1.0], [1.0], [-1.0], [-1.0]]), mask)
    assert (w[0] == 0).all()
    torch.testing.assert_close(w[1:], torch.where(mask, delta.exp(), 0)[1:])


def test_vespo_weighs_the_product_of_the_ratios_is_1_on_policy_and_largest_at_k_over_lambda():
    delta = torch.tensor([[0.0, 0.0], [0.3, -0.3]], dtype=F64)
    for advantage, peak in ((1.0, 2 / 3), (-1.0, 3 / 2)):
        torch.testing.assert_close(
            methods.get("vespo").weight(delta - 3, delta * 0 - 3, advantage), torch.ones_like(delta)
        )
        ratio = torch.linspace(0.05, 5, 1000, dtype=F64)
        w = weigh(methods.get("vespo"), ratio, advantage)
        assert ratio[w.argmax()].item() == pytest.approx(peak, abs=0.005)
        assert (w.diff().sign().diff() != 0).sum() == 1  # it rises, then falls
    extreme = torch.tensor([[200.0, 300.0], [-200.0, -300.0]])
    assert methods.get("vespo").weight(extreme, torch.zeros(2, 2), 1.0).tolist() == [[0, 0], [0, 0]]


def test_ripo_has_the_bounds_and_gradients_of_the_fork_s_tests():
    """π_old 0.8: the upper bound is 1 + √(0.02/0.8) = 1.158; π_old 0.01: 2.414. Outside [0.5, 10] nothing."""
    method = methods.get("ripo", delta=0.02)
    bound = 1 + math.sqrt(0.02 / 0.8)
    assert weigh(method, [bound - 1e-9, bound + 1e-9], 1.0, 0.8).tolist() == pytest.approx([bound, 0], abs=1e-8)
    assert weigh(method, [2.0, 2.42], 1.0, 0.01).tolist() == pytest.approx([2, 0])
    wide = methods.get("ripo", delta=100)
    for advantage in (1.0, -1.0):
        assert weigh(wide, [0.1, 0.6, 9.0, 20.0], advantage, 0.1).tolist() == pytest.approx([0, 0.6, 9, 0])


def test_dispo_has_a_bound_for_each_region_and_sorts_by_it():
    method = methods.get("dispo", eps_low_pos=0.1, eps_high_pos=2.0, eps_low_neg=0.5, eps_high_neg=1.0)
    ratio = torch.tensor([0.3, 0.8, 1.0, 1.5, 2.5, 4.0], dtype=F64)
    assert weigh(method, ratio, 1.0).tolist() == pytest.approx([0.9, 0.9, 1, 1.5, 2.5, 3])
    assert weigh(method, ratio, -1.0).tolist() == pytest.approx([0.5, 0.8, 1, 1.5, 2, 2])
    zero = torch.zeros_like(ratio)
    for advantage, names in ((1.0, "LP LP IN IN IN HP"), (-1.0, "LN IN IN IN HN HN")):
        region = method.regions(ratio.log(), zero, torch.full_like(zero, advantage))
        assert [methods.REGIONS[i] for i in region.code] == names.split()
    torch.testing.assert_close(weigh(methods.get("dispo"), ratio, 1.0), weigh(methods.get("cispo"), ratio, 1.0))
