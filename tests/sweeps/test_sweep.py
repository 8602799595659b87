"""Sweeps: runs equal to those of `train`, kills at random, divergence, table and report."""

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pandas as pd
import pytest
import torch
from running import LEVELS, rows, sweep_in
from safetensors.torch import load_file
from watching import children, ignores_ctrl_c, proc, stopped, until

from dgpo import __main__ as cli
from dgpo import config as configs
from dgpo.config import ConfigError
from dgpo.errors import explain
from dgpo.files import lock, remove
from dgpo.sweeps import definition, execute, report, table


def test_a_run_of_a_sweep_is_the_run_that_train_makes(done, tmp_path):
    """Bit for bit, although its process is forked from one that has imported everything."""
    from dgpo.trainer import train

    sweep, _, _ = done
    cell = sweep.cells[1]
    overrides = {**sweep.settings, **cell.settings, "seed": 1, "run_dir": str(tmp_path / "alone")}
    alone = train(configs.load("tiny", **overrides))
    there = sweep.run_dir(cell, 1)
    assert rows(alone) == rows(there)
    ours, theirs = (load_file(folder / "policy" / "model.safetensors") for folder in (alone, there))
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_a_divergence_is_a_result_and_is_kept(done):
    sweep, statuses, frame = done
    assert {name: how for name, how in statuses.items() if how != "finished"} == dict.fromkeys(
        ("wild seed 0", "wild seed 1"), "diverged"
    )
    wild = sweep.runs()[2]
    assert "NaN or infinite" in execute.status(wild)[1]
    before = (wild.path / "metrics.jsonl").stat().st_mtime_ns
    assert execute.execute(sweep) == statuses
    assert (wild.path / "metrics.jsonl").stat().st_mtime_ns == before
    assert set(frame[frame["cell"] == "wild"]["status"]) == {"diverged"}
    assert frame.groupby("cell")["step"].max().to_dict() == {"grpo": 3, "gppo": 3, "wild": 0}


def test_a_run_may_have_several_ranks_and_diverges_as_on_one(tmp_path):
    levels = {"wild": {"method": "pg", "lr": 1e9, "ranks": 2}}
    sweep = sweep_in(tmp_path / "ranks", factors={"method": levels}, seeds=[0])
    assert execute.execute(sweep) == {"wild seed 0": "diverged"}
    (run,) = sweep.runs()
    assert "NaN or infinite" in execute.status(run)[1]
    assert (run.path / "launch" / "log.txt").exists()


def test_the_table_has_a_row_for_every_step_of_every_run(done):
    sweep, _, frame = done
    assert pd.read_parquet(sweep.path / "sweep.parquet").equals(frame)
    finished = frame[frame["status"] == "finished"]
    assert len(finished) == 2 * 2 * 4
    assert set(finished["factor/method"]) == set(LEVELS)
    assert not [c for c in frame if c.startswith("seconds/")]
    assert finished.groupby("cell")["reward/mean"].count().eq(2 * 3).all()


def test_the_report_says_what_was_equal_and_what_a_method_decided_itself(done):
    sweep, _, frame = done
    text = report.write(sweep, frame)
    assert (sweep.path / "report.md").read_text() == text
    equal, differing = report.contrast(sweep)
    assert equal["num_minibatches"] == 4
    assert equal["loss_aggregation"] == "token-mean"
    assert differing.loc["grpo"].to_dict() == {
        "method": "grpo", "lr": 3e-4, "eps_low": 0.2, "eps_high": 0.2, "dual_clip": "off",
    }  # fmt: skip
    assert differing.loc["gppo", "eps_high"] == 0.28
    left = report.undecided(sweep, differing)
    assert left["eps_high"] == {"0.28": ["gppo"]}
    assert left["dual_clip"] == {"off": ["grpo"]}
    assert "`eps_high` is left to the method: 0.28 in gppo" in text
    assert "`eps_high` does not exist in wild: there it cannot be made equal" in text
    assert "wild seed 0 diverged: step" in text
    assert "| nan" not in text  # of what `wild` has none of there is a dash
    digest = json.loads((sweep.path / "policies.json").read_text())
    assert all(value[:16] in text for value in digest.values())
    assert len(digest) == 1


def test_killed_and_restarted_it_has_the_same_table(done, tmp_path):
    """Runs are killed, the sweep itself is interrupted, and its process killed outright."""
    _, _, expected = done
    sweep = sweep_in(tmp_path / "disturbed")
    interrupted = sum(_interrupted(sweep, steps) for steps in (1, 4, 7))  # of 12
    assert interrupted == 3
    _kill_the_process(tmp_path / "disturbed.yaml", sweep)
    execute.execute(sweep, jobs=2)
    got = table.collect(sweep)
    expected = expected[expected["cell"] != "wild"].reset_index(drop=True)
    pd.testing.assert_frame_equal(got[expected.columns], expected, check_exact=True)
    assert not list(sweep.path.glob("**/.*.partial"))


def _interrupted(sweep, steps):
    """Whether Ctrl-C, once so many steps are made in all, ends the sweep and every process of it."""
    over = threading.Event()

    def press():
        until(lambda: over.is_set() or execute._made(sweep.runs())[0] >= steps, f"{steps} steps")
        if not over.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    finger = threading.Thread(target=press)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        finger.start()
        execute.execute(sweep, jobs=2)
    except KeyboardInterrupt:
        return not multiprocessing.active_children()
    finally:
        over.set()
        finger.join()
        signal.signal(signal.SIGINT, before)
    return False


def _kill_the_process(path, sweep):
    """Start the sweep as a user does and kill it while a run of it trains: no process may be left behind."""
    last = sweep.runs()[-1]
    remove(last.path)
    command = [sys.executable, "-m", "dgpo", "sweep", str(path)]
    process = subprocess.Popen(command, env={**os.environ, "SWEEP_MARK": str(path)}, stderr=subprocess.PIPE)
    until(lambda: (last.path / "config.yaml").exists() or process.poll() is not None, "the last run's beginning")
    assert process.poll() is None, process.stderr.read().decode()
    assert len(_marked(path)) >= 3  # itself, the server that forks, and a run
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not _marked(path), "the end of all processes of a killed sweep")


def test_a_sweep_that_is_killed_while_it_imports_leaves_no_process(tmp_path):
    """Its server listens to nothing yet, and is stopped here, so that only the kernel can end it."""
    sweep_in(tmp_path / "s")
    path = tmp_path / "s.yaml"
    command = [sys.executable, "-m", "dgpo", "sweep", str(path)]
    process = subprocess.Popen(command, env={**os.environ, "SWEEP_MARK": str(path)}, stderr=subprocess.DEVNULL)
    servers = until(lambda: [pid for pid in children(process.pid) if _is_server(pid)], "the server's beginning")
    stopped(servers)
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: not _marked(path), "the end of all processes of a killed sweep")


def _is_server(pid) -> bool:
    return "forkserver" in proc(f"{pid}/cmdline") and ignores_ctrl_c(pid)


def _marked(path) -> list[str]:
    """The processes whose environment has the mark."""
    found, mark = [], f"SWEEP_MARK={path}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it is gone, or another user's
            if mark in environ.read_bytes():
                found.append(environ.parent.name)
    return found


def test_a_run_that_is_killed_harms_itself_only_and_is_tried_again(done, tmp_path):
    _, _, expected = done
    sweep = sweep_in(tmp_path / "s", factors={"method": {"grpo": LEVELS["grpo"]}})
    victim = sweep.runs()[0]
    stop = threading.Event()

    def kill():
        while not stop.wait(0.02):
            if (victim.path / "config.yaml").exists():
                for child in multiprocessing.active_children():
                    if child.name == victim.name:
                        os.kill(child.pid, signal.SIGKILL)
                        return

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        statuses = execute.execute(sweep)
    finally:
        stop.set()
        killer.join()
    assert statuses == {"grpo seed 0": "failed", "grpo seed 1": "finished"}
    assert execute.status(victim) == ("failed", "killed by SIGKILL")
    assert set(table.collect(sweep)["seed"]) == {1}
    assert "grpo seed 0 failed: killed by SIGKILL" in report.report(sweep, table.collect(sweep))
    assert set(execute.execute(sweep).values()) == {"finished"}
    expected = expected[expected["cell"] == "grpo"].sort_values(["seed", "step"]).reset_index(drop=True)
    pd.testing.assert_frame_equal(table.collect(sweep)[expected.columns], expected, check_exact=True)


def test_the_shard_that_came_second_to_a_run_says_nothing_of_it(tmp_path):
    """Two shards can come to one run at once. The one that finds it taken leaves the run, and its log, to the other."""
    run = sweep_in(tmp_path / "s").runs()[0]
    with lock(run.path, ""), execute._Pool(1) as pool:
        pool.start(run)
        while pool:
            pool.wait()
    assert execute.status(run) == ("unfinished", "")
    assert "another process" not in execute._log(run).read_text()


@pytest.mark.parametrize(
    ("function", "argument", "said"),
    [
        (os.listdir, "/nowhere", "'/nowhere' cannot be used: No such file or directory"),
        (os._exit, 3, "the process of _exit ended without an answer"),
    ],
)
def test_what_ends_the_process_that_makes_policies_is_told(function, argument, said):
    with execute._Pool(1) as pool, pytest.raises(Exception) as error:
        pool.call(function, argument)
    assert explain(error.value)[0] == said


def test_a_launcher_is_not_needed(tmp_path, monkeypatch):
    monkeypatch.setattr(execute.process_group, "world_size", lambda: 2)
    with pytest.raises(ConfigError, match="WORLD_SIZE=2: a sweep starts its own processes"):
        execute.execute(sweep_in(tmp_path / "s"))


def test_a_sweep_without_any_run_yet_has_a_report(tmp_path):
    sweep = sweep_in(tmp_path / "s")
    execute.claim(sweep)
    text = report.write(sweep, table.collect(sweep))
    assert "| gppo | 2 |" in text
    assert "unfinished" in text


def test_the_command(done, capsys):
    sweep, _, _ = done
    file = str(sweep.path / "sweep.yaml")
    assert cli.main(["sweep", file, "--report"]) == 0
    assert "# Sweep test" in capsys.readouterr().out
    table_before = (sweep.path / "sweep.parquet").read_bytes()
    for change, said in (("steps=1", "cell 'grpo', steps: 3 → 1"), ("seeds=[0]", "seed 1 is gone")):
        assert cli.main(["sweep", file, "--report", change]) == 2  # those are not the runs that are there
        assert said in capsys.readouterr().err
    assert (sweep.path / "sweep.parquet").read_bytes() == table_before
    assert cli.main(["sweep", file, "--report", "seeds=[0, 1, 2]"]) == 0  # it may grow
    assert "unfinished" in capsys.readouterr().out
    for words, said in (
        (["--shard", "3/2"], "shard='3/2' must be i/n"),
        (["--jobs", "0"], "jobs=0 must be at least 1"),
        (["steps=9"], "was made with another sweep"),
        (["oops"], "'oops' is not of the form key=value"),
    ):
        assert cli.main(["sweep", file, *words]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["sweep", file, "folder=nowhere", "--report"]) == 2
    assert "folder='nowhere' is not the folder of a sweep" in capsys.readouterr().err
    assert cli.main(["sweep", "nowhere.yaml"]) == 2
    assert "sweep 'nowhere.yaml' cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "docs/results").glob("*.yaml")), ids=lambda p: p.stem
)
def test_the_kept_sweeps_leave_nothing_to_the_methods(path):
    """Hazard of comparing methods: defaults of their own. ε and the dual clip are one value each, or off."""
    sweep = definition.load(path)
    equal, differing = report.contrast(sweep)
    assert report.undecided(sweep, differing) == {}
    for name, allowed in (("eps_low", {"0.2"}), ("eps_high", {"0.2"}), ("dual_clip", {"3", "off"})):
        values = set(differing[name].map(str)) if name in differing else {str(equal.get(name, report.ABSENT))}
        assert values <= allowed | {report.ABSENT}
    assert equal["filter_groups"] == "none"
    assert "kl_coef" in differing or equal["kl_coef"] == 0.0
    assert equal["loss_aggregation"] == "token-mean"
