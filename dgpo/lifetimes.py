"""Child processes that end with their parent, whatever ends it: an exception, Ctrl-C, SIGTERM, SIGKILL.

    process = start("dgpo.verifier.worker", "1.0", "512", stdin=subprocess.PIPE)
    end(process)

The child calls `main("1.0", "512")` of that module. A child that was forked calls `end_with` itself.

On Linux the kernel kills the child, even during an import or a long C call. To the kernel, the parent is the *thread*
that made the child: `start` makes each child in a thread of its own, which stays until the child has ended.
Elsewhere, a thread of the child checks several times a second whether the parent is still there.
"""

import contextlib
import ctypes
import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_INTERVAL = 0.2  # seconds between two checks of the parent, where the kernel does not signal
_PACKAGE_ROOT = str(Path(__file__).resolve().parents[1])


def start(module: str, *arguments: str, env: dict[str, str] | None = None, **options: Any) -> subprocess.Popen:
    """Run `main(*arguments)` of a module in a process that ends with this one. Options are those of Popen.

    It has a session of its own: Ctrl-C goes to the parent alone, and `end` reaches what the child has started.
    """
    env = dict(os.environ if env is None else env)
    env["PYTHONPATH"] = os.pathsep.join(filter(None, (_PACKAGE_ROOT, env.get("PYTHONPATH"))))
    command = [sys.executable, "-m", __name__, str(os.getpid()), module, *arguments]
    made = Future()
    options |= {"env": env, "start_new_session": True}
    threading.Thread(target=_make_and_stay, args=(made, command, options), daemon=True).start()
    try:
        return made.result()
    except KeyboardInterrupt:
        made.add_done_callback(lambda made: made.exception() or end(made.result()))
        raise


def start_program(command: list[str], **options: Any) -> subprocess.Popen:
    """Run any program in a process that gets SIGTERM when this one ends, so that it can end its own. As `start`."""
    return start(__name__, *command, **options)


def main(*command: str) -> None:
    """Become a program; the kernel remembers the parent, and that Ctrl-C is ignored."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    os.execvp(command[0], command)


def pipes(process: subprocess.Popen) -> tuple[IO[bytes], IO[bytes]]:
    """The standard input and output of a process that was started with pipes for both."""
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def end(process: subprocess.Popen) -> None:
    """Kill a process of `start` and its children, unless it has ended and been waited for; return when it is gone."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_with(parent: int) -> None:
    """Have this process killed when its parent, whose id is `parent`, ends."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0:
        if os.getppid() != parent:  # it ended before the kernel was asked
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        threading.Thread(target=_look_for, args=(parent,), daemon=True).start()


def _make_and_stay(made: Future, command: list[str], options: dict) -> None:
    try:
        process = subprocess.Popen(command, **options)
    except Exception as error:  # noqa: BLE001 (raised again in the caller)
        made.set_exception(error)
        return
    made.set_result(process)
    if sys.platform == "linux":
        with contextlib.suppress(ChildProcessError):  # it was waited for
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)


def _look_for(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_INTERVAL)
    os.kill(os.getpid(), signal.SIGKILL)


def _main(parent: str, module: str, *arguments: str) -> int | None:
    end_with(int(parent))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when we end
    return importlib.import_module(module).main(*arguments)


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
