"""Runs on several ranks: `torchrun(...)` starts this file, which does what a list of jobs says on every rank.

A job is the settings of one training run; the runs follow each other in the same processes. Faults are real: `kill` and
`hang` say where a rank sends itself SIGKILL, or sleeps for good, `kill_sampler` where its sampler's process gets one.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

from watching import children, proc

ROOT = Path(__file__).parents[1]


def torchrun(
    jobs: list[dict], folder: Path, *, ranks: int = 2, steady: bool = False, **faults
) -> subprocess.CompletedProcess:
    """Train every job on `ranks` ranks; see `_fault` for the faults. What the ranks printed is in stdout and stderr.

    With `steady` draws (see alike.py) the jobs can be compared with runs on another number of ranks.
    """
    plan = folder / "jobs.json"
    plan.write_text(json.dumps({"jobs": jobs, "steady": steady, **faults}))
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return run([sys.executable, "-m", *launcher, __file__, str(plan)])


def run(command: list[str], timeout: float = 3600, **environ) -> subprocess.CompletedProcess:
    """`subprocess.run` that, when time is out, ends the command's children too. An hour is a hang on any machine."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**environment(), **environ},
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=timeout)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def errors(result: subprocess.CompletedProcess) -> str:
    """What the ranks themselves said, without the launcher's report."""
    return "\n".join(line for line in result.stderr.splitlines() if line.startswith(("[rank", "rank ", "error")))


def environment() -> dict[str, str]:
    """That of this process without what a launcher set, and with this checkout first."""
    own = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return {**own, "PYTHONPATH": str(ROOT)}


def _fault(when: dict, act) -> None:
    """`act` on rank `rank` at the `count`-th call (the first) of `Class.method` in `step`, after it if `after`."""
    from dgpo import trainer
    from dgpo.distributed import process_group
    from dgpo.rollout import TransformersSampler

    owner = {"Engine": trainer.Engine, "Sampler": TransformersSampler}[when["call"].split(".")[0]]
    name, calls = when["call"].split(".")[1], []
    original = getattr(owner, name)

    def wrapped(self, *args, **kwargs):
        here = (
            process_group.rank() == when["rank"]
            and process_group.current_scope().split(", ")[0] == f"step {when['step']}"
        )
        calls.extend([1] if here else [])
        if here and len(calls) == when.get("count", 1):
            if when.get("after"):
                original(self, *args, **kwargs)
            act()
        return original(self, *args, **kwargs)

    setattr(owner, name, wrapped)


def _lose_patience() -> None:
    """Let collectives time out after a second: from now on they wait for a rank that hangs, not for a slow machine."""
    from torch.distributed import distributed_c10d

    for group in distributed_c10d._world.pg_map:
        distributed_c10d._set_pg_timeout(timedelta(seconds=1), group)


def _kill_sampler() -> None:
    for pid in children(os.getpid()):
        if any(name in proc(f"{pid}/cmdline") for name in ("background", "steady_sampler")):
            os.kill(pid, signal.SIGKILL)


def main(plan: dict) -> None:
    from dgpo import config as configs
    from dgpo import engine
    from dgpo.distributed import process_group
    from dgpo.rollout import background
    from dgpo.trainer import train

    if plan["steady"]:
        from alike import steady_draws

        steady_draws()
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests"), os.environ["PYTHONPATH"]])
        background.__name__ = "steady_sampler"  # the module that its process runs
    engine._PERSISTENT = 0  # else ZeRO-3 keeps parameters as small as these whole on every rank
    if "kill" in plan:
        _fault(plan["kill"], lambda: os.kill(os.getpid(), signal.SIGKILL))
    if "kill_sampler" in plan:
        _fault(plan["kill_sampler"], _kill_sampler)
    if "hang" in plan:
        _fault(plan["hang"], lambda: time.sleep(1000))
        _fault({**plan["hang"], "rank": 1 - plan["hang"]["rank"]}, _lose_patience)
    for settings in plan["jobs"]:
        train(configs.make(settings))
    process_group.destroy()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # as dgpo.__main__ does
