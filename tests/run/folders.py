"""Run folders for tests: what a run did to its own, and a run opened for going on."""

import os
from pathlib import Path

import running

from dgpo import config as configs
from dgpo.run.folder import RunFolder
from dgpo.run.identity import Identity

MADE_OF = {
    "data": {"data": 64 * "a", "eval_data": 64 * "b"},
    "model": {"config.json": 64 * "c", "model.safetensors": 64 * "d"},
    "prompts": {"the held-out problems": 64 * "e"},
    "code": {"dgpo": "0.1.0"},
    "parameters": {"lm.norm": "[32]"},
}


class Disk:
    """What the run did to its folder: `("sync", path, content)` and `("replace", from, to, files inside)`."""

    def __init__(self, folder, patch):
        self.folder, self.events = folder, []
        fsync, replace = os.fsync, os.replace

        def synced(handle):
            path = Path(os.readlink(f"/proc/self/fd/{handle}"))
            self.note("sync", path, path.read_text() if path.suffix == ".jsonl" else None)
            fsync(handle)

        def replaced(source, target):
            inside = [path for path in Path(source).rglob("*") if path.is_file()]
            self.note("replace", Path(source), Path(target), inside)
            replace(source, target)

        patch.setattr(os, "fsync", synced)
        patch.setattr(os, "replace", replaced)

    def note(self, what, path, *more):
        if path == self.folder or self.folder in path.parents:
            self.events.append((what, path, *more))


def opened(folder, **settings):
    """The run in a folder, opened for going on with what it was made of."""
    made = RunFolder(configs.make({**running.SMALL, "run_dir": str(folder), "resume": True, **settings}))
    try:
        made.open(lambda: Identity.read(Path(folder) / "identity.json").made_of)
    except BaseException:
        made.close()
        raise
    return made
