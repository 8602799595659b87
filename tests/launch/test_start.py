"""Ranks that `dgpo.train` and `python -m dgpo launch` start: their run, their end, and what is refused before."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from launch import environment
from watching import children, until, until_gone

import dgpo
from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo import plan
from dgpo.config import ConfigError
from dgpo.distributed import launcher as launcher_environment
from dgpo.launch import start
from dgpo.launch.follow import LaunchError
from dgpo.launch.settings import Launch
from dgpo.launch.settings import load as load_launch
from dgpo.methods.clipping import DGPO
from dgpo.run.folder import RunFolder
from dgpo.run.rows import read_rows

TESTS = Path(__file__).parents[1]


@pytest.fixture
def steady(small, monkeypatch):
    """Settings whose ranks stop at the checkpoint of step 2: a function of what they then do."""
    monkeypatch.setenv("PYTHONPATH", f"{TESTS}{os.pathsep}{TESTS.parent}")

    def stop(**variables):
        monkeypatch.setenv("STEADY_AT", str(Path(small["run_dir"]) / "checkpoints" / "step_000002"))
        for name, value in variables.items():
            monkeypatch.setenv(f"STEADY_{name}", value)
        return {**small, "method": "steady:Steady"}

    return stop


def words(settings):
    return [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in settings.items()]


def test_a_rank_that_dies_is_named_in_one_line_and_the_same_call_goes_on(steady, monkeypatch):
    settings = steady(RANK="1", DIES="1")
    with pytest.raises(LaunchError) as error:
        dgpo.train("tiny", **settings, ranks=2)
    assert str(error.value).startswith("rank 1 was killed by SIGKILL (out of memory?); what the ranks printed: ")
    assert "\n" not in str(error.value)
    assert error.value.exit_code == 3
    monkeypatch.delenv("STEADY_AT")
    run = dgpo.train("tiny", **settings, ranks=2)
    assert [row["step"] for row in read_rows(run.path / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    assert run.summary["ranks"] == 2


def test_ctrl_c_ends_the_ranks(steady):
    settings = steady()
    command = [sys.executable, "-m", "dgpo", "launch", "tiny", *words(settings), "launch=torchrun"]
    env = {**environment(), "PYTHONPATH": os.environ["PYTHONPATH"]}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until(lambda: process.poll() is not None or Path(os.environ["STEADY_AT"]).exists(), "a checkpoint")
    below = children(process.pid)
    assert len(below) >= 2  # torchrun and its rank
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.splitlines()[-1] == "interrupted"
    until_gone(below)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder on PATH with stubs of SLURM's commands for one machine, and a record of their arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in STUBS.items():
        (folder / name).write_text(text.replace("PYTHON", sys.executable).replace("TOLD", str(tmp_path / "told")))
        (folder / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "told"


STUBS = {
    "sbatch": """#!PYTHON
import argparse, os, shutil, subprocess, sys
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--wait", action="store_true", required=True)
for name in ("job-name", "dependency", "output", "nodes", "cpus-per-task"):
    parser.add_argument(f"--{name}", required=True)
for name in ("partition", "time", "gpus-per-node", "account"):
    parser.add_argument(f"--{name}")
parser.add_argument("script")
parser.add_argument("words", nargs="+")
args = parser.parse_args()
open("TOLD", "a").write(" ".join(sys.argv[1:]) + "\\n")
if args.partition == "gone":
    print("sbatch: error: invalid partition specified: gone", file=sys.stderr)
    sys.exit("sbatch: error: Batch job submission failed: Invalid partition name specified")
print("Submitted batch job 7", flush=True)
job = {"JOB_ID": "7", "JOB_NODELIST": "localhost", "NNODES": args.nodes, "CPUS_PER_TASK": args.cpus_per_task}
env = {**os.environ, **{f"SLURM_{name}": value for name, value in job.items()}}
spooled = shutil.copy(args.script, "TOLD.sbatch")
with open(args.output, "a") as output:
    sys.exit(subprocess.run(["bash", spooled, *args.words], env=env, stdout=output, stderr=output).returncode)
""",
    "srun": '#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": '#!/bin/bash\n[[ "$1 $2" == "show hostnames" ]] && echo "$3"\n',
    "scancel": '#!/bin/bash\necho scancel "$@" >> TOLD\n',
}


class TestSlurm:
    def test_a_job_trains(self, small, cluster):
        asked = {"launch": "slurm", "ranks": 1, "device": "cpu", "partition": "cpus", "time": "1:00:00"}
        run = dgpo.train("tiny", **{**small, "steps": 1}, **asked, sbatch="--account=mine")
        assert (run.summary["ranks"], run.summary["steps"]) == (1, 1)
        said = cluster.read_text().split()
        assert {"--nodes=1", "--cpus-per-task=1", "--partition=cpus", "--time=1:00:00", "--account=mine"} <= {*said}
        assert "--dependency=singleton" in said  # a second job waits for the first

    def test_what_it_refuses_is_its_own_error(self, small, cluster):
        with pytest.raises(LaunchError, match=r"sbatch: error: invalid partition specified: gone; what the ranks"):
            dgpo.train("tiny", **small, launch="slurm", ranks=1, device="cpu", partition="gone")

    def test_gpus_are_asked_for_and_an_interrupt_cancels_the_job_by_its_name(self, small, cluster):
        _, made, _ = start.prepare(*load_launch("tiny", **small, launch="slurm", ranks=4, nodes=2))
        command = made.command(Path("settings.yaml"), Path("log.txt"))
        assert {"--nodes=2", "--gpus-per-node=2"} <= {*command}
        asynchronous = {**small, "asynchronous": True, "sampler_ranks": 3}
        _, apart, _ = start.prepare(*load_launch("tiny", **asynchronous, launch="slurm", ranks=4, nodes=2))
        assert "--gpus-per-node=4" in apart.command(Path("settings.yaml"), Path("log.txt"))  # the first node's
        assert apart.environment()["DGPO_RANKS_ON_NODE"] == "2"
        process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        made.stop(process)
        assert process.returncode == -signal.SIGTERM
        name = command[command.index("--job-name") + 1]
        assert re.search(rf"scancel .*--name={name}$", cluster.read_text().strip())

    def test_jobs_of_one_folder_have_one_name(self, small, cluster, tmp_path, monkeypatch):
        config, how = load_launch("tiny", **small, launch="slurm", ranks=1)
        monkeypatch.chdir(tmp_path)
        folders = [config.run_dir, "run", str(tmp_path / "elsewhere" / "run")]
        names = [start.prepare(config.model_copy(update={"run_dir": f}), how)[1]._name for f in folders]
        assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"launch": "slurm", "ranks": 2}, r"launch='slurm': sbatch is not on PATH"),
        ({"launch": "mpi"}, r"launch='mpi': input should be 'torchrun', 'deepspeed' or 'slurm'"),
        (
            {"ranks": 2, "partition": "gpus"},
            r"partition='gpus' has no meaning for launch='torchrun': it needs launch='slurm'",
        ),
        (
            {"ranks": 2, "hostfile": "h"},
            r"hostfile='h' has no meaning for launch='torchrun': it needs launch='deepspeed'",
        ),
        ({"ranks": 2, "nodes": 2}, r"nodes=2 has no meaning for launch='torchrun'"),
        ({"launch": "deepspeed", "ranks": 2}, r"launch='deepspeed' needs hostfile=FILE"),
        ({"launch": "deepspeed", "hostfile": "none"}, r"hostfile='none' cannot be read: No such file"),
        ({"ranks": 9}, r"prompts_per_step=8 must be at least the number of ranks, 9"),
        (
            {"ranks": 2, "asynchronous": True, "sampler_ranks": 3},
            r"sampler_ranks=3 must be at most the number",
        ),
        ({"ranks": 2, "method": "own"}, r"method='own' is registered in this process only.*module:Class"),
    ],
)
def test_mistakes_end_before_anything_is_started(small, asked, said, monkeypatch, tmp_path):
    monkeypatch.setattr("dgpo.methods.base._REGISTRY", {**dgpo.methods.base._REGISTRY})
    dgpo.register("own")(type("Own", (DGPO,), {}))
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=said) as error:
        dgpo.train("tiny", **{**small, **asked})
    assert "\n" not in str(error.value)
    assert not Path(small["run_dir"]).exists()


def test_a_port_in_use_is_named(small):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port={port} cannot be used: Address already in use; port=0"):
            dgpo.train("tiny", **small, ranks=2, port=port)
    assert not Path(small["run_dir"]).exists()


class TestHostfile:
    def test_its_slots_are_the_ranks(self, small, tmp_path):
        (tmp_path / "hosts").write_text("# ours\nlocalhost slots=2\n\n")
        asked = load_launch("tiny", **small, launch="deepspeed", hostfile=str(tmp_path / "hosts"))
        config, made, _ = start.prepare(*asked)
        assert config.ranks == 2
        assert "deepspeed.launcher.launch" in made.command(Path("settings.yaml"), Path("log.txt"))  # nobody else in it
        (tmp_path / "hosts").write_text("node1 slots=4\nnode2 slots=4\n")
        config, made, _ = start.prepare(*asked)
        assert config.ranks == 8
        assert f"--hostfile={tmp_path / 'hosts'}" in made.command(Path("settings.yaml"), Path("log.txt"))

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("node1 4\n", "must have a line `HOST slots=RANKS`"),
            ("", "must have a line"),
            ("node1 slots=4\n", "ranks=2, but hostfile=.* has 4 slots"),
        ],
    )
    def test_another_one_is_refused(self, small, tmp_path, text, said):
        (tmp_path / "hosts").write_text(text)
        with pytest.raises(ConfigError, match=said):
            start.prepare(*load_launch("tiny", **small, launch="deepspeed", hostfile=str(tmp_path / "hosts"), ranks=2))

    def test_deepspeed_starts_them(self, small, tmp_path):
        (tmp_path / "hosts").write_text("localhost slots=1\n")
        run = dgpo.train("tiny", **{**small, "steps": 1}, launch="deepspeed", hostfile=str(tmp_path / "hosts"))
        assert run.summary["steps"] == 1


def test_a_run_of_other_settings_is_not_gone_on_with(small):
    begun = RunFolder(configs.make(small))
    begun.open(lambda: {})
    begun.close()
    with pytest.raises(ConfigError, match=r"was started with other settings: lr: 0.0003 → 0.1"):
        dgpo.train("tiny", **{**small, "lr": 0.1}, ranks=2)


class TestOnGPUs:
    @pytest.fixture(autouse=True)
    def _a_machine_with_two(self, monkeypatch):
        card = type("Card", (), {"name": "NVIDIA H100 80GB HBM3", "total_memory": 80 * 10**9})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)

    def test_more_ranks_than_there_are_are_refused(self, small):
        with pytest.raises(ConfigError, match=r"ranks=3, but this machine has 2 CUDA devices: each rank needs"):
            dgpo.train("tiny", **small, ranks=3)

    def test_so_are_more_samplers(self, small, tmp_path):
        apart = {**small, "asynchronous": True, "sampler_ranks": 1}
        with pytest.raises(ConfigError, match=r"ranks=2 with sampler_ranks=1, but .* 2 CUDA devices: each rank and"):
            dgpo.train("tiny", **apart, ranks=2)
        (tmp_path / "hosts").write_text("localhost slots=2\n")
        with pytest.raises(ConfigError, match=r"launch='deepspeed' with sampler_ranks=1: DeepSpeed hides the GPUs"):
            dgpo.train("tiny", **apart, launch="deepspeed", hostfile=str(tmp_path / "hosts"))
        assert not Path(small["run_dir"]).exists()

    @pytest.mark.parametrize("force", [False, True])
    def test_what_does_not_fit_is_refused_or_forced(self, small, capsys, monkeypatch, force):
        monkeypatch.setattr(start, "follow", lambda *_: None)
        monkeypatch.setattr(plan.Plan, "fits", property(lambda self: self.hardware.memory != 80e9))  # this machine's
        if force:
            assert dgpo.launch.start.train(*load_launch("tiny", **small, ranks=2, force=True)) == Path(small["run_dir"])
        else:
            with pytest.raises(ConfigError, match=r"does not fit a GPU of 80 GB: .*force=true"):
                start.train(*load_launch("tiny", **small, ranks=2))
            assert not Path(small["run_dir"]).exists()
            start.train(*load_launch("tiny", **small, ranks=2, gpu="h200"))
        assert "on 2 GPUs of" in capsys.readouterr().out

    def test_a_notebook_trains_in_a_child_process(self, small, monkeypatch):
        config = configs.make(small)
        assert not start._launched(config, Launch())
        monkeypatch.setattr(start, "in_notebook", lambda: True)
        assert start._launched(config, Launch())
        assert not start._launched(config.model_copy(update={"device": "cpu"}), Launch())


def test_a_rank_starts_no_ranks(small, monkeypatch):
    monkeypatch.setattr(launcher_environment, "started", lambda *_: True)
    config = configs.make({**small, "ranks": 2})
    assert not start._launched(config, Launch())
    with pytest.raises(ConfigError, match="this process is a rank already"):
        start.train(config, Launch(launch="torchrun"))


def test_the_command_line_ends_in_one_line_and_the_exit_code_of_the_rank(small, capsys, monkeypatch):
    def fail(*_):
        raise LaunchError("step 1 of dgpo: loss is NaN", 4)

    monkeypatch.setattr(start, "follow", fail)
    assert cli.main(["launch", "tiny", *words(small), "ranks=2"]) == 4
    assert capsys.readouterr().err.splitlines()[-1] == "error: step 1 of dgpo: loss is NaN"
