"""One rank and several are the same algorithm: two ranks, started by torchrun, against one in this process."""

import json
import re
import socket
import subprocess
import sys

import pandas as pd
import pytest
import running
import torch
from alike import ROUNDING, assert_alike, steady_draws
from launch import environment, errors, run, torchrun
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from watching import children, until, until_gone

from dgpo import config as configs
from dgpo import trainer
from dgpo.config import ConfigError
from dgpo.distributed import process_group
from dgpo.run.rows import read_rows

UNTIED = "a model whose output layer is not its embedding"

# Settings of a run on two ranks, and of the run on one that it must equal.
PAIRS = {
    "zero_1": ({"zero_stage": 1}, {}),
    "zero_2": ({"zero_stage": 2}, {}),
    "zero_3": ({"zero_stage": 3, "token_records": 100_000}, {"token_records": 100_000}),  # every token
    # 5 prompts on 2 ranks; 5 sequences an update: 3 micro-batches on one rank, 2 on the other
    "uneven": (
        {"zero_stage": 3, "prompts_per_step": 5, "micro_batch_size": 1, "offload": "optimizer+params"},
        {"prompts_per_step": 5},
    ),
    "untied": ({"zero_stage": 3, "model": UNTIED}, {"model": UNTIED}),  # an output layer of its own
    "token_budget": (
        {"zero_stage": 2, "max_tokens_per_micro_batch": 40, "max_prompt_tokens": 4},
        {"max_tokens_per_micro_batch": 40, "max_prompt_tokens": 4},
    ),
    "every_term": (
        {"zero_stage": 3, "kl_coef": 0.1, "entropy_coef": 0.01, "gradient_checkpointing": True},
        {"kl_coef": 0.1, "entropy_coef": 0.01},
    ),
    # so few groups are left that an update has less sequences than ranks
    "drop": (
        {"zero_stage": 2, "filter_groups": "drop", "num_minibatches": 16},
        {"filter_groups": "drop", "num_minibatches": 16},
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module", autouse=True)
def _steady():
    with pytest.MonkeyPatch.context() as patch:
        steady_draws(patch.setattr)
        yield


@pytest.fixture(scope="module")
def base(settings):
    return {**settings, "steps": 2, "eval_every": 2}


@pytest.fixture(scope="module")
def launched(folder, base, checkpoint):
    """Every pair's run on two ranks, then one on two ranks that goes on with what one rank began."""
    untie(checkpoint, folder / "model")
    running.run(base, run_dir=str(folder / "begun_by_one"))
    jobs = [{**base, **settled(own, folder), "run_dir": str(folder / name)} for name, (own, _) in PAIRS.items()]
    goes_on = {**base, "run_dir": str(folder / "begun_by_one"), "steps": 4, "resume": True, "zero_stage": 3}
    result = torchrun([*jobs, goes_on], folder, steady=True)
    assert result.returncode == 0, errors(result)
    return result


@pytest.fixture(scope="module")
def undisturbed(folder, base):
    return running.run(base, steps=4, run_dir=str(folder / "undisturbed"))


def settled(settings, folder):
    return {k: str(folder / "model") if v is UNTIED else v for k, v in settings.items()}


@pytest.mark.parametrize("name", PAIRS)
def test_two_ranks_make_the_updates_of_one(launched, folder, base, checkpoint, name):
    one = running.run(base, **settled(PAIRS[name][1], folder), run_dir=str(folder / f"{name}_one"))
    assert_alike(one, folder / name, settled(PAIRS[name][1], folder).get("model", checkpoint))
    a, b = (flat(path / "checkpoints" / "step_000002") for path in (one, folder / name))
    a, b = (torch.cat([x[key].flatten() for key in sorted(a) if key[1] == "exp_avg"]) for x in (a, b))
    assert (a - b).norm() <= ROUNDING * a.norm()
    texts = [[row["completion"] for row in read_rows(path / "completions.jsonl")] for path in (one, folder / name)]
    assert texts[0] == texts[1]


def test_what_two_ranks_leave_is_whole(launched, folder):
    run = folder / "zero_3"
    AutoModelForCausalLM.from_pretrained(run / "policy")
    tokens = pd.concat([pd.read_parquet(path) for path in sorted(run.glob("tokens/*"))])
    assert all(set(part) == set(range(32)) for _, part in tokens.groupby("step")["sequence"])  # of both ranks
    assert sorted(p.name for p in (run / "checkpoints" / "step_000002").iterdir()) == [
        "rank_00000.safetensors",
        "rank_00001.safetensors",
        "state.json",
    ]
    assert json.loads((run / "summary.json").read_text())["ranks"] == 2


def test_two_ranks_go_on_with_what_one_began(launched, folder, undisturbed, checkpoint):
    assert_alike(undisturbed, folder / "begun_by_one", checkpoint)
    assert launched.stderr.count("ranks=1 wrote step 2, 2 continue") == 1


@pytest.mark.parametrize("name", ["zero_2", "zero_3"])
def test_one_rank_takes_over_exactly_what_two_had(
    launched, folder, base, name, undisturbed, tmp_path, capsys, checkpoint
):
    """Weights and moments bit by bit, from stage 2 or 3 on two ranks to stage 1 on one; then the run goes on."""
    saved = folder / name / "checkpoints" / "step_000002"
    settings = {**base, **PAIRS[name][0], "run_dir": str(folder / name), "zero_stage": 1, "resume": True, "steps": 4}
    taken = trainer.Trainer(configs.make(settings))
    assert taken.restore() == 2
    assert "ranks=2 wrote step 2, 1 continue" in capsys.readouterr().err
    taken.engine.save(tmp_path)
    taken.run.close()
    ours, theirs = flat(tmp_path), flat(saved)
    assert ours.keys() == theirs.keys()
    assert {kind for _, kind in ours} == {"weight", "exp_avg", "exp_avg_sq"}
    for key in ours:
        assert torch.equal(ours[key], theirs[key]), key
    running.run(settings)
    assert_alike(undisturbed, folder / name, checkpoint)


def flat(checkpoint):
    """(parameter, kind) → its flattened whole, from all shards."""
    found = {}
    for path in checkpoint.glob("rank_*.safetensors"):
        for key, tensor in load_file(path).items():
            name, start, kind = key.split("|")
            found.setdefault((name, kind), []).append((int(start), tensor))
    return {key: torch.cat([part for _, part in sorted(parts, key=lambda p: p[0])]) for key, parts in found.items()}


class TestLaunchers:
    WORDS = ("prompts_per_step=4", "group_size=2", "num_minibatches=2", "steps=1", "eval_problems=4", "eval_samples=1")

    def words(self, base, tmp_path):
        return ["train", "tiny", f"tiny={json.dumps(base['tiny'])}", "max_new_tokens=29", *self.WORDS,
                f"run_dir={tmp_path / 'run'}"]  # fmt: skip

    def test_deepspeed_reads_a_hostfile(self, base, tmp_path):
        (tmp_path / "hostfile").write_text("localhost slots=2\n")
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(tmp_path / "hostfile")]
        alone = ["--no_ssh", "--node_rank=0", "--master_addr=127.0.0.1", f"--master_port={free_port()}"]
        result = run([*launcher, *alone, "--module", "dgpo", *self.words(base, tmp_path)])
        assert result.returncode == 0, result.stderr[-4000:]
        assert json.loads((tmp_path / "run" / "summary.json").read_text())["ranks"] == 2
        assert result.stdout.splitlines().count(str(tmp_path / "run")) == 1

    TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dgpo")

    def test_what_all_ranks_see_is_told_once(self, base, tmp_path):
        result = run([*self.TORCHRUN, *self.words(base, tmp_path), "lr=1e9", "dtype=bfloat16"])
        assert result.returncode == 1
        assert result.stderr.count("error: step ") == 1
        assert "the update was not applied" in result.stderr

    def test_ranks_end_with_a_launcher_that_is_killed(self, base, tmp_path):
        words = [*self.words(base, tmp_path), "eval_every=0", "checkpoint_every=0"]
        words[words.index("steps=1")] = "steps=1000000"
        launcher = subprocess.Popen(
            [*self.TORCHRUN, *words], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        metrics = tmp_path / "run" / "metrics.jsonl"
        until(lambda: launcher.poll() or (metrics.exists() and metrics.read_text().count("\n") > 1), "the first step")
        ranks = children(launcher.pid)
        assert len(ranks) >= 2
        launcher.kill()
        launcher.wait()
        until_gone(ranks)

    def test_another_number_of_ranks_than_the_recipe_asks_for_is_refused_once(self, base, tmp_path):
        result = run([*self.TORCHRUN, *self.words(base, tmp_path), "ranks=3"])
        assert result.returncode == 1
        assert len(re.findall(r"error: ranks=3, but 2 were started \(2 on .*hostfile", result.stderr)) == 1
        assert not (tmp_path / "run").exists()


class TestAWorldOfOne:
    def test_everything_is_the_identity(self):
        x = torch.tensor([1.0, 2.0])
        assert (process_group.rank(), process_group.world_size()) == (0, 1)
        assert process_group.all_gather_object({"a": x}) == [{"a": x}]
        assert all(reduce(x) is x for reduce in (process_group.all_reduce_sum, process_group.all_reduce_max))
        assert process_group.on_rank0(max, 1, 2) == 2
        assert process_group.gather_results(max, 1, 2) == [2]
        assert list(range(7))[process_group.local_slice(7)] == list(range(7))

    def test_places_are_named_from_the_outside_in_and_left_on_an_error(self):
        seen = []
        with pytest.raises(ZeroDivisionError), process_group.error_scope("step 1"), process_group.error_scope("update"):
            _fail_after(seen)
        assert seen == ["step 1, update"]
        assert process_group.current_scope() == "no named place"


def test_being_told_to_stop_loses_no_error_that_is_on_its_way_out():
    with pytest.raises(SystemExit, match="stopped by SIGTERM"), process_group.error_scope("step 1"):
        process_group._told_to_stop()
    with pytest.raises(ZeroDivisionError), process_group.error_scope("step 1"):
        _fail_after([])
    process_group._told_to_stop()  # as when a launcher ends this rank before the error is printed
    with pytest.raises(SystemExit, match="stopped by SIGTERM"), process_group.error_scope("step 1"):
        process_group._told_to_stop()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_shares_are_everything_once_and_even(monkeypatch, count):
    monkeypatch.setattr(process_group, "world_size", lambda: count)
    parts = []
    for i in range(count):
        monkeypatch.setattr(process_group, "rank", lambda i=i: i)
        parts.append(list(range(7))[process_group.local_slice(7)])
    assert [i for part in parts for i in part] == list(range(7))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_a_world_of_another_size_than_the_launcher_started_is_refused(monkeypatch):
    """As when another library has made a world of one before: each rank would train alone."""
    process_group.init("cpu", 60)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(process_group.RanksError, match="has 1 ranks, the launcher started 2"):
        process_group.init("cpu", 60)


def test_ranks_that_do_not_fit_the_settings_are_named(base):
    config = configs.make(base)
    other = config.model_copy(update={"lr": 1.0})
    with pytest.raises(
        ConfigError, match=r"ranks 0 and 1 \(on b\) were started with other settings: lr: 0.0003 and 1.0"
    ):
        process_group._compare([(config, "a"), (other, "b")])
    with pytest.raises(ConfigError, match=r"prompts_per_step=8 must be at least the number of ranks, 9 \(9 on a\)"):
        process_group._compare([(config, "a")] * 9)
    process_group._compare([(config, "a"), (config, "b")])


def test_offloaded_parameters_need_stage_3(base):
    with pytest.raises(ConfigError, match="needs zero_stage=3, not zero_stage=2"):
        configs.make({**base, "offload": "optimizer+params", "zero_stage": 2})


def untie(source, target) -> None:
    """A copy of a checkpoint with an output layer of its own, a little off the embedding."""
    lm, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    lm.config.tie_word_embeddings = False
    lm.lm_head.weight = torch.nn.Parameter(lm.lm_head.weight.detach() * 1.01)
    lm.save_pretrained(target)
    tokenizer.save_pretrained(target)
    assert "lm_head.weight" in load_file(target / "model.safetensors")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _fail_after(seen):
    seen.append(process_group.current_scope())
    raise ZeroDivisionError
