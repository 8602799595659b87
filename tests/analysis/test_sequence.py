"""The sequence policy: its gradient by autograd, its pass@k by enumeration and by sampling, its seeds on their own."""

import itertools
from dataclasses import replace

import pandas as pd
import pytest
import torch

from analysis import sequence
from analysis.sequence import World
from dgpo.methods import get

REWARDS = ("answer", "share")
SMALL = World(length=2, vocabulary=4, features=6, held_out=8, prompts=4, group=4, epochs=2, minibatches=2)


def frame(contestants, seeds, world=SMALL, **options):
    return sequence.run(contestants, world, seeds=seeds, **{"steps": 3, "every": 1, "k": 4} | options)


def test_a_seed_alone_and_among_others_gives_the_same_numbers():
    """To 1e-5: float32 matrix products of other batch sizes may add up in another order."""
    pairs = [("grpo", 0.05), ("dgpo", 0.05)]
    among, alone = frame(pairs, [3, 4, 5]), frame(pairs, [4])
    kept = among[among.seed == 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, alone, rtol=0, atol=1e-5)


def test_a_contestant_alone_and_among_others_gives_the_same_numbers():
    among, alone = frame([("grpo", 0.2), ("dgpo", 0.05), ("pg", 0.05)], [1, 2]), frame([("dgpo", 0.05)], [1, 2])
    kept = among[among.method == "dgpo"].sort_values(["step", "seed"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(kept, alone.sort_values(["step", "seed"], ignore_index=True), rtol=0, atol=1e-5)


def test_contestants_of_a_seed_start_alike_and_seeds_do_not():
    start = frame([("grpo", 0.05), ("pg", 0.1)], [1, 2]).query("step == 0")
    assert start.groupby("seed")["pass@4"].nunique().tolist() == [1, 1]
    assert start["pass@4"].nunique() == 2


def test_with_one_update_a_batch_all_methods_are_one():
    one = World(**{**vars(SMALL), "epochs": 1, "minibatches": 1})
    end = frame([(m, 0.05) for m in ("grpo", "cispo", "dgpo", "pg")], [0], one).query("step == 3")
    assert end["pass@1"].nunique() == 1


def test_a_sampler_behind_makes_the_methods_differ_with_one_update_too():
    one = World(**{**vars(SMALL), "epochs": 1, "minibatches": 1, "behind": 1, "length": 1, "group": 8})
    end = frame([(m, 0.5) for m in ("grpo", "pg")], [0], one, steps=6).query("step == 6")
    assert end["pass@1"].nunique() == 2


def test_exact_pass_at_k_is_that_of_the_right_answers_frequency():
    """Enumerates all V^T answers: the right one's probability is q, and the chances of all add up to 1."""
    prompts = sequence._Prompts(SMALL, [7])
    theta = prompts.start[None]
    x = torch.arange(SMALL.held_out, 2 * SMALL.held_out)[None]
    total, right = torch.zeros(SMALL.held_out), torch.zeros(SMALL.held_out)
    for answer in itertools.product(range(4), repeat=2):
        chance, fine, before = torch.ones(SMALL.held_out), torch.ones(SMALL.held_out), torch.full_like(x, 4)
        for t, token in enumerate(answer):
            row = prompts.row(x, t, before)
            chance *= (prompts.phi[row] @ theta[0])[0].softmax(-1)[:, token]
            fine *= prompts.right[row][0] == token
            before = torch.full_like(x, token)
        total, right = total + chance, right + chance * fine
    one, four, _ = sequence._evaluate(theta, prompts, 4)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert one.item() == pytest.approx(right.mean().item(), abs=1e-6)
    assert four.item() == pytest.approx((1 - (1 - right) ** 4).mean().item(), abs=1e-6)


def test_the_gradient_is_that_of_the_weighted_log_likelihood():
    prompts = sequence._Prompts(SMALL, [0, 1])
    theta = prompts.start.repeat(1, 1, 1, 1)
    x, u, _ = prompts.step()
    phi, token, old, advantage = sequence._sample(theta, prompts, x, u)
    assert advantage.abs().sum() > 0
    method, moved = get("dgpo"), (theta + 0.3 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(0)))
    phi, old, advantage, moved = (v.double() for v in (phi, old, advantage, moved))
    moved.requires_grad_()
    logp = torch.einsum("csntd,csdv->csntv", phi, moved).log_softmax(-1).gather(-1, token[..., None])[..., 0]
    w = sequence._weights([(method, 0.1)], logp.detach(), old, advantage)
    assert (w != logp.detach().sub(old).exp()).any()  # some tokens are clipped
    (-(w * advantage * logp).mean((-1, -2))).sum().backward()
    got = sequence._gradient(moved.detach(), [(method, 0.1)], phi, token, old, advantage)
    torch.testing.assert_close(got, moved.grad)


def test_it_learns():
    ends = frame([("grpo", 0.05)], range(4), World(length=2, vocabulary=6), steps=20, every=20)
    mean = ends.groupby("step")["pass@1"].mean()
    assert mean[20] > 1.5 * mean[0]


def test_a_reward_for_the_share_of_right_tokens_teaches_where_no_answer_is_right():
    rare = replace(SMALL, length=6, teacher=0.1)  # hardly any of 4^6 answers is right
    of = {reward: frame([("grpo", 0.05)], [0], replace(rare, reward=reward), steps=40, every=40) for reward in REWARDS}
    gained = {reward: one["pass@4"].iloc[-1] - one["pass@4"].iloc[0] for reward, one in of.items()}
    assert gained["share"] > gained["answer"] + 0.05


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"group": 1}, "group=1 must be at least 2"),
        ({"prompts": 200}, "prompts=200 must be at most held_out=128"),
        ({"minibatches": 7}, "minibatches=7 must divide"),
        ({"reward": "half"}, "reward='half' must be 'answer' or 'share'"),
    ],
)
def test_a_world_that_cannot_be_is_refused(values, says):
    with pytest.raises(ValueError, match=says):
        World(**values)


def test_no_step_is_refused():
    with pytest.raises(ValueError, match="steps=0"):
        frame([("grpo", 0.1)], [0], steps=0)
