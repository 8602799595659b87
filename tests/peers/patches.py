"""Our patches of trainers without a hook, applied to their released source."""

import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "docs" / "integrations"


def apply(trainer: str, source: Path, place: str, folder: Path) -> str:
    """The text of `source`, which lies at `place` in the trainer, with the patch; it compiles."""
    target = folder / place
    target.parent.mkdir(parents=True)
    shutil.copy(source, target)
    patch = FOLDER / f"{trainer}.patch"
    done = subprocess.run(["git", "apply", str(patch)], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = target.read_text()
    compile(text, place, "exec")
    return text
