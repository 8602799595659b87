"""Combinations of settings that fit, each checked by `plan`, and samplers on GPUs of their own."""

import re

import pytest
import yaml

from dgpo import __main__ as cli
from dgpo import cards, plan, ways
from dgpo import config as configs

GB = 1e9
SEVERAL = "vllm.gpu_memory=0.87 zero_stage=3 offload=optimizer+params"


def fits(name, words, ranks, memory, **settings):
    """Whether a recipe with the settings and the words of the command line fits."""
    given = dict(word.split("=") for word in words.split())
    config = configs.load(name, data="x", **settings)
    changed = ways.changed_to(config, {key: yaml.safe_load(value) for key, value in given.items()})
    return plan.predict(changed, ranks, cards.hardware_of("h100", memory=memory * GB)).fits


@pytest.mark.parametrize(
    ("name", "settings", "ranks", "memory", "among", "size"),
    [
        ("r1-distill-1.5b", {}, 1, 85, "offload=rollout", 1),
        ("r1-distill-14b", {}, 1, 80, "offload=optimizer+params", 1),
        ("r1-distill-14b", {"zero_stage": 2}, 8, 64, "offload=rollout zero_stage=3", 2),
        ("r1-distill-7b", {"zero_stage": 1}, 8, 40, "vllm.gpu_memory=0.54 lora.r=32", 2),
        ("r1-distill-7b", {"vllm": {"gpu_memory": 0.9}}, 1, 24, SEVERAL, 3),
    ],
)  # fmt: skip
def test_the_shortest_combinations_are_told_and_fit(name, settings, ranks, memory, among, size):
    hardware = cards.hardware_of("h100", memory=memory * GB)
    assert not fits(name, "", ranks, memory, **settings)
    said = ways.advice(configs.load(name, data="x", **settings), ranks, hardware, memory * GB)
    found = said.removesuffix(" fits").split(" or ")
    assert among in found
    for words in found:
        assert len(words.split()) == size
        assert fits(name, words, ranks, memory, **settings), words


def test_the_share_of_vllm_is_the_largest_that_fits():
    hardware = cards.hardware_of("h100", memory=85.2 * GB)
    config = configs.load("r1-distill-1.5b", data="x", vllm={"gpu_memory": 0.7})
    first, *_ = ways.advice(config, 1, hardware, 84 * GB).split(" or ")
    share = float(first.removeprefix("vllm.gpu_memory="))
    assert fits("r1-distill-1.5b", first, 1, 84)
    assert not fits("r1-distill-1.5b", f"vllm.gpu_memory={share + 0.02:g}", 1, 84)


def test_what_nothing_mends_is_said():
    config = configs.load("r1-distill-14b", data="x")
    said = ways.advice(config, 1, cards.hardware_of("h100", memory=48 * GB), 48 * GB)
    assert said == "no combination of settings makes it fit: use more ranks, or larger GPUs"


class TestApart:
    def test_gpus_that_sample_while_others_train(self):
        config = configs.load("r1-distill-1.5b", data="x", importance_correction="none", asynchronous=True)
        shared = plan.predict(config, 8, cards.CARDS["h200"])
        own = ways.changed_to(config, {"sampler_ranks": 2, "vllm.gpu_memory": 0.9})
        apart = plan.predict(own, 8, cards.CARDS["h200"])
        assert apart.memory[plan.SAMPLER].keys() == {"sampler's copy", "KV cache"}
        assert not {"sampler's copy", "KV cache"} & apart.memory["update"].keys()
        assert apart.memory["update"]["optimizer"] == pytest.approx(shared.memory["update"]["optimizer"] * 8 / 6)
        assert apart.seconds["update"] == pytest.approx(shared.seconds["update"] * 8 / 6, rel=0.01)
        assert apart.seconds["decode"] > 2 * shared.seconds["decode"]
        sampling = apart.seconds["prefill"] + apart.seconds["decode"]
        assert apart.step == max(sampling, sum(apart.seconds.values()) - sampling)
        assert "on 8 GPUs of 141 GB: 6 train, 2 sample" in str(apart)

    def test_plan_tells_of_a_faster_split_and_of_none_that_is_slower(self, capsys):
        assert cli.main(["plan", "r1-distill-1.5b", "data=x", "--gpus", "8", "--gpu", "h100"]) == 0
        told = capsys.readouterr().out.splitlines()[-1]
        assert told.startswith("samplers on GPUs of their own, one step off-policy: ")
        words = told.rpartition(": ")[2].split()
        asked = dict(word.split("=") for word in words)
        assert int(asked.pop("ranks")) + int(asked["sampler_ranks"]) == 8
        again = [f"{name}={value}" for name, value in asked.items() if "." not in name]
        own = [*again, "vllm={gpu_memory: 0.9}"]
        assert cli.main(["plan", "r1-distill-1.5b", "data=x", *own, "--gpus", "8", "--gpu", "h100"]) == 0
        seconds = re.search(r"([\d.e+]+) s a step", told)[1]
        assert re.search(rf"^a step +{re.escape(seconds)}", capsys.readouterr().out, re.MULTILINE)
        assert cli.main(["plan", "r1-distill-1.5b", "data=x", "--gpus", "1"]) == 0
        assert "of their own" not in capsys.readouterr().out

    def test_more_samplers_than_ranks_are_refused(self, capsys):
        words = ["r1-distill-1.5b", "data=x", "importance_correction=none", "asynchronous=true", "sampler_ranks=3"]
        assert cli.main(["plan", *words, "--gpus", "5"]) == 2
        assert "sampler_ranks=3 must be at most half of the GPUs, 5" in capsys.readouterr().err

    def test_what_does_not_fit_comes_with_what_does(self, capsys):
        assert cli.main(["plan", "r1-distill-14b", "data=x", "--memory", "80"]) == 1
        assert capsys.readouterr().out.splitlines()[-1] == "offload=optimizer+params fits"
