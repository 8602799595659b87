"""The roofline counts what the arithmetic says, and what the trainer's own code moves does not grow unnoticed."""

import pytest

from benchmarks import roofline
from dgpo import cards, shapes
from dgpo import config as configs


@pytest.fixture(scope="module")
def counted():
    config = configs.load("r1-distill-1.5b", max_prompt_tokens=64)
    return config, roofline.count(config, sequences=8, length=256)


def test_flops_are_those_of_one_forward_pass_and_of_four(counted):
    config, found = counted
    shape = shapes.Shape.of(shapes.known(config.model))
    forward = shape.forward_flops(8 * 256, 8 * 256**2, 8 * 240)  # fused attention counts all pairs, masked or not
    assert found["old_logp"].flops == pytest.approx(forward, rel=0.01)
    # forward, a backward pass of twice that, and forward again; torch may stop that before each layer's last product
    spared = 28 * 2 * 8 * 256 * shape.hidden * shape.intermediate
    assert 0.995 * (4 * forward - spared) < found["update"].flops < 1.005 * 4 * forward


def test_kernels_and_bytes_stay_near_what_was_counted(counted):
    _, found = counted
    assert len(found["old_logp"].work) < 1.1 * 1196
    assert len(found["update"].work) < 1.1 * 4503
    assert found["old_logp"].bytes < 1.1 * 41.4e9
    assert found["update"].bytes < 1.1 * 127.9e9
    assert found["update"].syncs <= 1


def test_a_slower_card_takes_longer_and_launches_bound_small_kernels():
    kernels = roofline.Kernels([(1e9, 0.0), (0.0, 1e12), (1.0, 1.0)])
    a100, h200 = kernels.seconds(cards.CARDS["a100"]), kernels.seconds(cards.CARDS["h200"])
    assert a100 == pytest.approx(1e9 / (0.8 * 2.04e12) + 1e12 / (0.7 * 312e12) + 4e-6)
    assert h200 < a100
