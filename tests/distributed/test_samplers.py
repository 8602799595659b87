"""Samplers on devices of their own: two ranks with one sampler, against ranks that have one each; what is refused."""

import os

import pytest
import running
import torch
from alike import assert_alike, steady_draws
from launch import errors, torchrun

from dgpo import config as configs
from dgpo.config import ConfigError
from dgpo.distributed import process_group
from dgpo.rollout import background, owners
from dgpo.run.rows import read_rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("samplers")


@pytest.fixture(scope="module")
def base(settings):
    return {**settings, "asynchronous": True, "prompts_per_step": 5, "num_minibatches": 2}


@pytest.fixture(scope="module")
def launched(folder, base):
    """A run whose only sampler is killed in step 3; then others on two ranks, and that run with two samplers."""
    killed = {**base, "sampler_ranks": 1, "run_dir": str(folder / "killed")}
    broken = torchrun([killed], folder, steady=True, kill_sampler={"call": "Engine.logp", "rank": 0, "step": 3})
    jobs = [
        {**base, "run_dir": str(folder / "one_each")},
        {**base, "sampler_ranks": 1, "zero_stage": 3, "run_dir": str(folder / "one_for_both")},
        {**killed, "sampler_ranks": 2, "resume": True},
    ]
    result = torchrun(jobs, folder, steady=True)
    assert result.returncode == 0, errors(result)
    return broken, result


@pytest.fixture(scope="module")
def alone(folder, base):
    """The run on one rank."""
    with pytest.MonkeyPatch.context() as patch:
        steady_draws(patch.setattr)
        patch.setattr(background, "__name__", "steady_sampler")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(running.ROOT / "tests"), str(running.ROOT)]))
        return running.run(base, run_dir=str(folder / "alone"))


@pytest.mark.parametrize("name", ["one_each", "one_for_both"])
def test_the_numbers_are_those_of_one_rank_and_its_sampler(launched, alone, folder, checkpoint, name):
    assert_alike(alone, folder / name, checkpoint)
    steps = read_rows(folder / name / "metrics.jsonl")[1:]
    assert [row["staleness/steps"] for row in steps] == [0, 1, 1, 1]
    one, other = ([row["completion"] for row in read_rows(f / "completions.jsonl")] for f in (alone, folder / name))
    assert one == other


def test_a_sampler_that_dies_is_named_and_the_run_goes_on_with_two(launched, alone, folder, checkpoint):
    broken, result = launched
    assert broken.returncode != 0
    assert "ended by signal 9 while sampling" in broken.stderr
    ahead = [path.name for path in (folder / "killed" / "checkpoints" / "step_000002").glob("ahead_*")]
    assert ahead == ["ahead_00000.safetensors"]
    assert "sampler_ranks: 1 → 2" in result.stderr
    assert_alike(alone, folder / "killed", checkpoint)  # it takes both parts from the one file


@pytest.mark.parametrize(("count", "world"), [(1, 3), (2, 4), (3, 8), (4, 4)])
def test_only_owners_have_a_share(monkeypatch, count, world):
    monkeypatch.setattr(process_group, "world_size", lambda: world)
    parts = []
    for rank in range(world):
        monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
        parts.append([*range(11)][process_group.local_slice(11, count)])
    assert [i for part in parts for i in part] == [*range(11)]
    sizes = [len(part) for part in parts if part]
    assert (len(sizes), max(sizes) - min(sizes) <= 1) == (count, True)


class TestDevices:
    @pytest.fixture
    def places(self, monkeypatch):
        """The samplers' devices by rank, on nodes of `each` ranks with `gpus` GPUs."""

        def places(samplers, world, each, gpus):
            found = []
            for rank in range(world):
                monkeypatch.setattr(process_group, "world_size", lambda: world)
                monkeypatch.setattr(process_group, "rank", lambda rank=rank: rank)
                firsts = [r - r % each for r in range(world)]
                monkeypatch.setattr(process_group, "all_gather_object", lambda _, firsts=firsts: firsts)
                monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
                monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
                found.append(owners.device(configs.load("tiny", asynchronous=True, sampler_ranks=samplers)))
            return found

        return places

    def test_they_are_those_after_the_ranks_of_each_node(self, places):
        assert places(3, 5, 5, 8) == [5, 6, None, 7, None]
        assert places(2, 8, 4, 8) == [4, None, None, None] * 2  # one on each node
        assert places(2, 4, 4, 0) == [None] * 4  # CPUs

    def test_more_than_there_are_are_refused(self, places):
        with pytest.raises(ConfigError, match=r"sampler_ranks=2: the 3 ranks and 2 samplers of this host need 5 GPUs"):
            places(2, 3, 3, 4)

    def test_a_sampler_sees_its_own_alone(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
        assert background._environment(2)["CUDA_VISIBLE_DEVICES"] == "6"
        assert background._environment(None)["CUDA_VISIBLE_DEVICES"] == "5"


class TestRefused:
    def test_in_turn_they_would_stand_idle(self):
        with pytest.raises(ConfigError, match=r"^sampler_ranks=1 needs asynchronous=True: .*idle") as error:
            configs.load("tiny", sampler_ranks=1)
        assert "\n" not in str(error.value)

    def test_more_than_ranks(self, small):
        with pytest.raises(ConfigError, match="sampler_ranks=2 must be at most the number of ranks, 1"):
            running.run(small, asynchronous=True, sampler_ranks=2)

    def test_a_device_of_its_own_is_the_engines_whole(self):
        settings = {"asynchronous": True, "rollout": "vllm"}
        assert configs.load("tiny", **settings, sampler_ranks=1).vllm.share == 0.9
        assert configs.load("tiny", **settings).vllm.share == 0.4
        assert configs.load("tiny", **settings, sampler_ranks=1, vllm={"gpu_memory": 0.5}).vllm.share == 0.5
