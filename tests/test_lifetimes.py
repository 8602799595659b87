"""Child processes end with their parent, and not with the thread that made them."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from watching import children, ignores_ctrl_c, runs, until, until_gone

from dgpo import lifetimes

HERE = str(Path(__file__).parent)


@pytest.fixture(autouse=True)
def stubs(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", HERE + os.pathsep + str(Path(HERE).parent))


def child():
    process = lifetimes.start("stub_child", stdout=subprocess.PIPE, text=True)
    assert int(process.stdout.readline()) == process.pid
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("maker", ["make()", "t = threading.Thread(target=make); t.start(); t.join()"])
def test_a_child_ends_with_its_parent(how, maker):
    code = (
        "import signal, threading, time\n"
        "from dgpo import lifetimes\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job inherits that it is ignored
        "def make(): global child; child = lifetimes.start('stub_child')\n"
        f"{maker}\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as parent:
        made = int(parent.stdout.readline())
        assert runs(made)
        parent.send_signal(how)
        until_gone([made])


@pytest.mark.parametrize("platform", [sys.platform, "elsewhere"])
def test_one_whose_parent_ended_before_it_looked_ends_too(platform):
    code = (
        "import os, sys, time\n"
        "from dgpo import lifetimes\n"
        f"sys.platform = {platform!r}\n"
        "lifetimes.end_with(os.getpid())\n"  # which is not its parent
        "time.sleep(1000)\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL


def test_without_the_kernel_s_help_a_child_sees_that_its_parent_is_gone():
    inner = (
        "import sys, time; from dgpo import lifetimes; sys.platform = 'elsewhere'; "
        "lifetimes.end_with(int(sys.argv[1])); print('up', flush=True); time.sleep(1000)"
    )
    outer = (
        "import os, subprocess, sys, time\n"
        f"made = subprocess.Popen([sys.executable, '-c', {inner!r}, str(os.getpid())], stdout=subprocess.PIPE)\n"
        "made.stdout.readline()\n"
        "print(made.pid, flush=True)\n"
        "time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE) as parent:
        made = int(parent.stdout.readline())
        assert runs(made)
        parent.kill()
        until_gone([made])


@pytest.mark.skipif(sys.platform != "linux", reason="there a parent is a thread")
def test_a_child_outlives_the_thread_that_asked_for_it():
    made = []
    thread = threading.Thread(target=lambda: made.append(child()))
    thread.start()
    thread.join()
    until(lambda: not Path(f"/proc/self/task/{thread.native_id}").exists(), "the end of a thread")
    assert runs(made[0].pid)
    made[0].stdout.close()
    lifetimes.end(made[0])


def test_ended_means_gone_and_twice_is_fine():
    process = lifetimes.start("stub_child", stdout=subprocess.PIPE)
    with process.stdout:
        process.stdout.readline()
    lifetimes.end(process)
    assert process.returncode == -signal.SIGKILL
    assert not runs(process.pid)
    lifetimes.end(process)


def test_ctrl_c_reaches_the_parent_alone():
    process = child()
    with process.stdout:
        assert os.getpgid(process.pid) != os.getpgid(0)
        os.kill(process.pid, signal.SIGINT)
        assert ignores_ctrl_c(process.pid)
    lifetimes.end(process)


def test_ctrl_c_while_a_process_is_made_leaves_none(monkeypatch):
    made = []

    class Interrupted(lifetimes.Future):
        def result(self):
            if not made:
                made.append(super().result())
                raise KeyboardInterrupt
            return super().result()

    monkeypatch.setattr(lifetimes, "Future", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        lifetimes.start("stub_child", stdout=subprocess.DEVNULL)
    assert made[0].returncode == -signal.SIGKILL


def test_what_cannot_be_started_says_so(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        lifetimes.start("stub_child")


@pytest.mark.skipif(sys.platform != "linux", reason="there only the kernel can tell a program that is not ours")
def test_a_program_is_told_to_end_when_its_parent_is_killed(tmp_path):
    """With SIGTERM, which a launcher answers by ending its ranks."""
    program = "trap 'touch told; kill $!; exit' TERM; sleep 1000 & echo $$; wait"
    code = f"import time; from dgpo import lifetimes; lifetimes.start_program(['bash', '-c', {program!r}])"
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}; time.sleep(1000)"], stdout=subprocess.PIPE, cwd=tmp_path
    ) as parent:
        made = int(parent.stdout.readline())
        parent.kill()
        until_gone([made])
    assert (tmp_path / "told").exists()


def test_a_thread_that_ends_while_its_children_are_counted_has_none(monkeypatch):
    monkeypatch.setattr(Path, "glob", lambda folder, pattern: [Path("/proc/self/task/0/children")])
    assert children(os.getpid()) == set()
