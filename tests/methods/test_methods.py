"""What holds for all methods, and for DGPO at any n and m: limits, continuity, masks, garbage, errors."""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from weighing import F64, weigh

from dgpo import methods
from dgpo.objective import loss_weights, surrogate

positive = st.floats(0.05, 20)
epsilon = st.floats(0.01, 0.95)


@given(n=positive, m=positive, low=epsilon, high=epsilon)
def test_dgpo_is_continuous_at_both_boundaries(n, m, low, high):
    method = methods.get("dgpo", n=n, m=m, eps_low=low, eps_high=high)
    step = 1e-9
    for boundary, advantage in ((1 - low, -1.0), (1 + high, 1.0)):
        inner, outer = weigh(method, [boundary * (1 - step), boundary * (1 + step)], advantage)
        slope = 1 + max(n + 1, 1 + 1 / m)  # |d log w / d log r| is at most this
        assert abs(math.log(outer / inner)) <= 4 * step * slope


@given(n=positive, m=positive, low=epsilon, high=epsilon, r=st.floats(1e-6, 1e3), sign=st.sampled_from([-1.0, 1.0]))
def test_dgpo_keeps_a_share_of_the_unclipped_gradient_and_all_of_it_inside(n, m, low, high, r, sign):
    assume(abs(r - (1 - low)) > 1e-9)
    assume(abs(r - (1 + high)) > 1e-9)
    w = weigh(methods.get("dgpo", n=n, m=m, eps_low=low, eps_high=high), [r], sign).item()
    outside = (sign < 0 and r < 1 - low) or (sign > 0 and r > 1 + high)
    assert 0 <= w <= r * (1 + 1e-12)
    assert outside or w == pytest.approx(r, rel=1e-12)


def test_ladder_from_gppo_over_dgpo_to_the_hard_clip_and_pg():
    outside_right, outside_left = torch.tensor([1.3, 2.0, 15.0]), torch.tensor([0.7, 0.3, 1e-3])
    eps = {"eps_low": 0.2, "eps_high": 0.28}
    gppo, pg = methods.get("gppo", **eps), methods.get("pg")
    torch.testing.assert_close(
        weigh(methods.get("dgpo", m=1, **eps), outside_right, 1.0), weigh(gppo, outside_right, 1.0), rtol=1e-12, atol=0
    )
    for m in (1e8, math.inf):
        torch.testing.assert_close(
            weigh(methods.get("dgpo", m=m, **eps), outside_right, 1.0), weigh(pg, outside_right, 1.0), rtol=1e-6, atol=0
        )
    for n in (1e4, math.inf):
        assert (weigh(methods.get("dgpo", n=n, **eps), outside_left, -1.0) == 0).all()
    nearly_pg = weigh(methods.get("dgpo", n=1e-9, **eps), outside_left, -1.0)
    torch.testing.assert_close(nearly_pg, weigh(pg, outside_left, -1.0), rtol=1e-6, atol=0)


def test_limits_that_tell_the_methods_apart():
    """π → 0 with A < 0: what is left of w_log, and whether w_prob = w_log/π diverges."""
    tiny_ratio = torch.tensor([1e-8, 1e-12], dtype=F64)
    for key, w_log, diverges in (
        ("grpo", 0.0, False), ("cispo", 0.8, True), ("gppo", 0.8, True), ("ce_gppo", 0.6, True),
        ("aspo", 0.0, False), ("dgpo", 0.0, False), ("cispo_cap", 0.0, False),
    ):  # fmt: skip
        w = weigh(methods.get(key), tiny_ratio, -1.0)
        assert w[1].item() == pytest.approx(w_log, abs=1e-8), key
        at_1e8, at_1e12 = (w / tiny_ratio).tolist()  # w_prob, in units of 1/π_old
        assert (at_1e12 > 100 * at_1e8 > 0) == diverges, key


def test_ties_are_inside():
    boundaries = torch.tensor([0.8, 1.2], dtype=F64)
    region = methods.regions(torch.tensor([math.log(1 - 0.2), math.log(1 + 0.2)], dtype=F64), torch.tensor([-1.0, 1.0]))
    assert region.code.tolist() == [4, 4]
    assert weigh(methods.get("grpo"), boundaries[:1] * (1 + 1e-12), -1.0).item() > 0


def test_regions_are_the_five_of_the_paper():
    log_ratio = torch.tensor([0.5, 1.5, 0.5, 1.5, 1.0, 0.5]).log()
    advantage = torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0, 0.0])
    codes = methods.regions(log_ratio, advantage).code
    assert [methods.REGIONS[c] for c in codes] == ["LN", "HP", "LP", "HN", "IN", "IN"]


@pytest.mark.parametrize("key", methods.names())
def test_finite_in_float32_up_to_80_nats_forward_and_backward(key):
    grid = torch.tensor([-80.0, -60, -20, -5, -0.1, 0, 0.1, 5, 20, 60, 80])[:, None]
    for old_value in (-1e-3, -1.0, -90.0):
        for advantage in (-1.0, 1.0):
            old = torch.full_like(grid, old_value)
            logp = (old + grid).requires_grad_()
            w = methods.get(key).weight(logp, old, advantage, None, *[torch.ones_like(grid)] * 2)
            loss = surrogate(logp, w, torch.full_like(grid, advantage), torch.ones_like(grid))
            loss.backward()
            assert w.isfinite().all(), (key, old_value, advantage, w)
            assert logp.grad.isfinite().all()
            assert w.dtype == torch.float32


@pytest.mark.parametrize("garbage", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("key", methods.names())
def test_masked_garbage_reaches_neither_weights_nor_gradients(key, garbage):
    generator = torch.Generator().manual_seed(1)
    old = -torch.rand(4, 6, generator=generator) * 3
    logp = old + torch.randn(4, 6, generator=generator)
    advantage = torch.tensor([[1.0], [-1.0], [0.5], [-2.0]]).expand(4, 6).clone()
    mask = torch.rand(4, 6, generator=generator) < 0.6
    mask[3] = False
    entropy = torch.rand(4, 6, generator=generator)
    clean = methods.get(key).weight(logp, old, advantage, mask, entropy, entropy)
    dirty = [torch.where(mask, x, garbage) for x in (logp, old, advantage)]
    dirty[0].requires_grad_()
    w = methods.get(key).weight(*dirty, mask, *[torch.where(mask, entropy, garbage)] * 2)
    assert torch.equal(w, clean)
    assert (w[~mask] == 0).all()
    coefficient = loss_weights(mask)
    surrogate(dirty[0], w, dirty[2], coefficient).backward()
    assert dirty[0].grad.isfinite().all()
    assert (dirty[0].grad[~mask] == 0).all()


def test_the_nan_trap_of_a_masked_branch():
    """With torch.where over the two expressions DGPO's unselected LN branch overflows, and its gradient is 0·inf."""
    log_ratio = torch.tensor([60.0], requires_grad=True)
    naive = torch.where(log_ratio < math.log(0.8), torch.exp(2 * log_ratio) / 0.8, torch.exp(log_ratio))
    assert torch.autograd.grad(naive, log_ratio)[0].isnan().all()
    logp = torch.tensor([[60.0]], requires_grad=True)
    w = methods.get("dgpo").weight(logp, torch.zeros(1, 1), -1.0)
    surrogate(logp, w, torch.tensor([[-1.0]]), torch.ones(1, 1)).backward()
    assert logp.grad.isfinite().all()


@pytest.mark.parametrize("key", methods.names())
def test_weights_carry_no_gradient_and_keep_dtype_and_shape(key):
    for dtype in (torch.float32, F64):
        logp = torch.full((2, 3), -1.0, dtype=dtype, requires_grad=True)
        w = methods.get(key).weight(
            logp, torch.full((2, 3), -1.5, dtype=dtype), torch.tensor([[1.0], [-1.0]], dtype=dtype), None, logp, logp
        )
        assert not w.requires_grad
        assert (w.dtype, w.shape) == (dtype, (2, 3))


@pytest.mark.parametrize("key", [key for key in methods.names() if not methods.get_class(key).needs])
def test_token_methods_do_not_look_at_neighbours(key):
    generator = torch.Generator().manual_seed(2)
    old = -torch.rand(5, 4, generator=generator, dtype=F64) * 3
    logp, A = old + torch.randn(5, 4, generator=generator, dtype=F64), torch.randn(5, 1, generator=generator, dtype=F64)
    whole = methods.get(key).weight(logp, old, A)
    single = methods.get(key).weight(logp.reshape(-1, 1), old.reshape(-1, 1), A.expand(5, 4).reshape(-1, 1))
    torch.testing.assert_close(whole.reshape(-1, 1), single, rtol=1e-14, atol=0)


@pytest.mark.parametrize("key", [key for key in methods.names() if methods.get_class(key).needs == ("sequence",)])
def test_sequence_methods_look_at_neighbours_and_not_at_padding(key):
    old, delta = torch.zeros(2, 5) - 1, torch.tensor([[0.1, -0.2, 0.05, 0.0, 0.0], [1e-4, 2e-4, -1e-4, 0.0, 0.0]])
    mask = torch.tensor([[1, 1, 1, 0, 0]] * 2).bool()
    padded = methods.get(key).weight(old + delta, old, torch.tensor([[1.0], [-1.0]]), mask)
    short = methods.get(key).weight((old + delta)[:, :3], old[:, :3], torch.tensor([[1.0], [-1.0]]))
    torch.testing.assert_close(padded[:, :3], short)
    alone = methods.get(key).weight(
        *(x[:, :3].reshape(-1, 1) for x in (old + delta, old)), torch.tensor([[1.0], [-1.0]]).repeat_interleave(3, 0)
    )
    assert not torch.allclose(short.reshape(-1, 1), alone)


def test_drpo_pulls_back_a_good_token_that_gained_too_much():
    assert weigh(methods.get("drpo", eps=0.2), [20.0], 1.0).item() < 0


@pytest.mark.parametrize(
    ("key", "params", "words"),
    [
        ("dgop", {}, ["'dgop'", "did you mean 'dgpo'", "grpo", "gmpo"]),
        ("grpo", {"n": 1}, ["'grpo'", "'n'", "eps_low", "dual_clip"]),
        ("pg", {"eps_low": 0.2}, ["'pg'", "'eps_low'", "none"]),
        ("dgpo", {"n": 0}, ["n=0", "(0, inf"]),
        ("dgpo", {"n": -1.0}, ["n=-1.0"]),
        ("dgpo", {"m": math.nan}, ["m=nan"]),
        ("dgpo", {"m": "2"}, ["m='2'"]),
        ("dgpo", {"n": True}, ["n=True"]),
        ("dgpo", {"eps_low": 1.0}, ["eps_low=1.0", "(0, 1)"]),
        ("cispo", {"eps_high": 0.0}, ["eps_high=0.0", "(0, 1)"]),
        ("grpo", {"dual_clip": 1.0}, ["dual_clip=1.0", "None"]),
        ("cispo_cap", {"cap": 0}, ["cap=0"]),
        ("sapo", {"tau_neg": math.inf}, ["tau_neg=inf"]),
        ("drpo", {"eps": 0}, ["eps=0"]),
        ("dppo", {"divergence": "js"}, ["divergence='js'", "'tv', 'kl'"]),
        ("icepop", {"low": 1.0}, ["low=1.0", "(0, 1)"]),
    ],
)
def test_bad_keys_and_values_are_named_with_what_is_allowed(key, params, words):
    with pytest.raises(ValueError) as error:
        methods.get(key, **params)
    for word in words:
        assert word in str(error.value)


def test_wrong_inputs_are_named():
    logp = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="old_logp has shape \\(2, 4\\)"):
        methods.get("dgpo").weight(logp, torch.zeros(2, 4), 1.0)
    with pytest.raises(ValueError, match="bfloat16"):
        methods.get("dgpo").weight(logp.bfloat16(), logp, 1.0)


def test_defaults_are_the_published_ones():
    assert methods.get("dgpo").params() == {"eps_low": 0.2, "eps_high": 0.2, "n": 1.0, "m": 2.0}
    assert methods.get("grpo").params() == {"eps_low": 0.2, "eps_high": 0.2, "dual_clip": None}
    assert methods.get("gppo").params() == {"eps_low": 0.2, "eps_high": 0.28, "dual_clip": 10.0}
    assert methods.get("ce_gppo").params() == {
        "eps_low": 0.2, "eps_high": 0.2, "beta_low": 0.75, "beta_high": 1.0, "dual_clip": 10.0
    }  # fmt: skip
    assert methods.get("gspo").aggregation == methods.get("sapo").aggregation == "seq-mean-token-mean"


class TestOwnMethod:
    @pytest.fixture(autouse=True)
    def _unregister(self, monkeypatch):
        monkeypatch.setattr(methods.base, "_REGISTRY", dict(methods.base._REGISTRY))

    def test_a_registered_method_is_like_the_others_and_may_be_registered_again(self):
        for power in (0.5, 2.0):  # as a notebook cell that is run twice

            @methods.register("mine")
            @dataclass(frozen=True)
            class Mine(methods.Method):
                power: float = 1.0

                def weight(self, logp, old_logp, advantage, mask=None):
                    return torch.exp(self.power * (logp - old_logp))

            method = methods.get("mine", power=power)
            assert "mine" in methods.names()
            assert weigh(method, [4.0], 1.0).item() == pytest.approx(4.0**power)
            logp = torch.zeros(1, 2, requires_grad=True)
            w = method.weight(logp, torch.tensor([[0.0, math.nan]]), 1.0, torch.tensor([[True, False]]))
            assert w.tolist() == [[1.0, 0.0]]
            assert not w.requires_grad

    @pytest.mark.parametrize("value", ["abc", "1e-3", True, None, math.inf, math.nan, [1.0]])
    def test_a_plain_field_that_is_annotated_as_a_number_takes_finite_numbers_alone(self, value):
        @dataclass(frozen=True)
        class Mine(methods.Method):
            power: float = 0.5
            steps: "int" = 3
            cap: float = None
            kind: str = "soft"

        assert Mine(power=2, steps=4, kind=value).params()["power"] == 2
        for name in ("power", "steps", "cap")[: 2 if value is None else 3]:  # a default of None is allowed
            with pytest.raises(ValueError, match=rf"method 'Mine': {name}=.* must be a number in \(-inf, inf\)"):
                Mine(**{name: value})

    def test_taking_a_key_or_registering_no_method_is_an_error(self):
        with pytest.raises(ValueError, match="'dgpo' is already registered"):

            @methods.register("dgpo")
            @dataclass(frozen=True)
            class Other(methods.Method):
                pass

        with pytest.raises(TypeError, match="must be a subclass"):
            methods.register("x")(int)

    def test_a_weight_of_the_wrong_shape_names_the_method(self):
        @dataclass(frozen=True)
        class Crooked(methods.Method):
            def weight(self, logp, old_logp, advantage, mask=None):
                return logp.sum(1)

        with pytest.raises(ValueError, match=r"Crooked\.weight returned torch\.float32 \(2,\); expected .* \(2, 3\)"):
            Crooked().weight(torch.zeros(2, 3), torch.zeros(2, 3), 1.0)
