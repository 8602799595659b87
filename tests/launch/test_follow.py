"""The progress and the end of what a launcher started, and the one line that its output comes to."""

import signal
import sys

import pytest

from dgpo import config as configs
from dgpo.launch import follow, launchers
from dgpo.launch.settings import Launch
from dgpo.run import rows

TORCHRUN = """Traceback (most recent call last):
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : 3 (pid: 11)
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-27_08:32:21
  rank      : 1 (local_rank: 1)
  exitcode  : {code} (pid: 12)
"""
LOST = "error: rank 0 of 2 on node7, in step 3, update: a reduction of all ranks failed: Connection closed\n"


@pytest.mark.parametrize(
    ("printed", "said", "code"),
    [
        (f"{LOST}error: the disk is full (rank 1 of 2 on node7, in step 3)\n" + TORCHRUN.format(code=3),
         "the disk is full (rank 1 of 2 on node7, in step 3)", 3),
        (LOST + TORCHRUN.format(code=-9), "rank 1 was killed by SIGKILL (out of memory?)", 3),
        (LOST + TORCHRUN.format(code=-11), "rank 1 was killed by SIGSEGV", 3),
        (LOST + TORCHRUN.format(code=3), LOST.removeprefix("error: ").strip(), 3),
        ("error: step 1 of dgpo: the loss is NaN\n" + TORCHRUN.format(code=4), "step 1 of dgpo: the loss is NaN", 4),
        ("error: lr=-1 is wrong\n" + TORCHRUN.format(code=2), "lr=-1 is wrong", 2),
        (f"[rank1]: Traceback (most recent call last):\n[rank1]: KeyError: 'x'\n{LOST}" + TORCHRUN.format(code=1),
         "the launcher ended with exit code 1: [rank1]: KeyError: 'x'", 3),
        ("subprocess.CalledProcessError: ['ssh']\n\nDuring handling\n\nRuntimeError: launcher 'pdsh' not installed.\n",
         "the launcher ended with exit code 1: RuntimeError: launcher 'pdsh' not installed.", 3),
        ("[ERROR] [launch.py:325] ['python'] exits with return code = -9\n",
         "a rank was killed by SIGKILL (out of memory?)", 3),
        ("Submitted batch job 7\nslurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 9:00 DUE TO TIME LIMIT ***\n",
         "the launcher ended with exit code 1: slurmstepd: error: *** JOB 7 ON n1 CANCELLED AT 9:00 DUE TO TIME LIMIT "
         "***", 3),
        ("", "the launcher ended with exit code 1: nothing was printed", 3),
    ],
)  # fmt: skip
def test_the_error_of_the_rank_that_failed_first_is_told(printed, said, code):
    assert follow.failure(printed, 1) == (said, code)


class Stub(launchers.Torchrun):
    """Runs a line of Python in place of ranks."""

    code = ""

    def command(self, settings, log):
        return [sys.executable, "-c", self.code]


@pytest.fixture
def stub(small, tmp_path):
    (tmp_path / "run").mkdir()
    return Stub(configs.make(small), Launch())


def test_what_an_earlier_start_printed_is_no_error_of_this_one(stub, tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("error: yesterday's\n")
    stub.code = "print('error: today’s'); exit(1)"
    with pytest.raises(follow.LaunchError, match=f"^today’s; what the ranks printed: {log}$"):
        follow.follow(stub, tmp_path / "settings.yaml", log, follow.Steps(stub.config, 0))
    assert log.read_text() == "error: yesterday's\nerror: today’s\n"


def test_new_rows_are_shown_each_once(stub, tmp_path, monkeypatch):
    shown, metrics = [], tmp_path / "run" / "metrics.jsonl"
    monkeypatch.setattr(follow.Progress, "update", lambda self, done, **values: shown.append((done, values)))
    rows.append(metrics, [{"step": step, "reward/mean": 9.0} for step in range(4)])  # an earlier run's
    steps = follow.Steps(stub.config, made=2)
    steps.show()
    assert shown == []
    metrics.unlink()
    rows.append(metrics, [{"step": 0, "eval/avg@2": 0.5}, {"step": 1}, {"step": 2}, {"step": 3, "reward/mean": 0.25}])
    steps.show()
    steps.show()
    assert shown == [(3, {"reward": 0.25, "held-out": 0.5})]
    with metrics.open("a") as file:
        file.write('{"step": 4, "rew')
    steps.show()
    assert len(shown) == 1


def test_one_that_does_not_end_when_told_to_is_killed(stub, tmp_path, monkeypatch):
    monkeypatch.setattr(launchers, "_PATIENCE", 0.1)
    ended, stop = [], launchers.Torchrun.stop

    def interrupted(process):
        raise KeyboardInterrupt

    def watched(self, process):
        stop(self, process)
        ended.append(process.returncode)

    monkeypatch.setattr(follow, "_ended", interrupted)
    monkeypatch.setattr(launchers.Torchrun, "stop", watched)
    stub.code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(1000)"
    with pytest.raises(KeyboardInterrupt):
        follow.follow(stub, tmp_path / "settings.yaml", tmp_path / "log.txt", follow.Steps(stub.config, 0))
    assert ended[0] in (-signal.SIGKILL, -signal.SIGTERM)  # the latter where it was still starting
