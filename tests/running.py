"""Runs, sweeps and notebooks, as several tests make and read them. (A conftest.py is not imported: there are two.)"""

from pathlib import Path

import nbformat
import papermill
import yaml
from safetensors.torch import load_file

from dgpo import config as configs
from dgpo.runfolder import read_metrics
from dgpo.sweep import definition
from dgpo.trainer import train

BOOKS = Path(__file__).parents[1] / "notebooks"
SMALL = {
    "tiny": {"hidden": 32, "layers": 2, "heads": 2, "max_difficulty": 2, "steps": 200, "seed": 0},
    "difficulty": 1,
    "steps": 4,
    "prompts": 8,
    "completions": 4,
    "updates": 4,
    "micro_batch": 4,
    "max_new_tokens": 14,
    "eval_problems": 6,
    "eval_completions": 2,
    "eval_every": 2,
    "checkpoint_every": 2,
    "token_records": 64,
}

SWEPT = {**SMALL, "steps": 3, "checkpoint_every": 1}
LEVELS = {
    "grpo": {"method": "grpo", "eps_high": 0.2},
    "gppo": {"method": "gppo", "dual_clip": 3},
}


def run(settings, **overrides):
    """Train with settings and overrides; the run folder."""
    return train(configs.make({**settings, **overrides}))


def rows(folder):
    """Metrics without the wall times, which two runs do not share."""
    return read_metrics(Path(folder))


def weights(folder):
    """The weights that a run has learned, by name."""
    return load_file(Path(folder) / "policy" / "model.safetensors")


def execute(book, out, parameters, **options):
    """Run a notebook with parameters; the path of the executed one."""
    papermill.execute_notebook(
        str(BOOKS / f"{book}.ipynb"), str(out), parameters, progress_bar=False, kernel_name="python3", **options
    )
    return out


def shown(executed):
    """What the cells of an executed notebook show: a mapping of MIME type to data for each output."""
    cells = [c for c in nbformat.read(executed, 4).cells if c.cell_type == "code"]
    return [o.get("data", {}) for c in cells for o in c.outputs]


def sweep_in(folder, **changes):
    """A sweep of two cells and two seeds, with changes to its fields, as its file FOLDER.yaml says."""
    fields = {"name": "test", "folder": str(folder), "settings": SWEPT, "factors": {"method": LEVELS}, "seeds": [0, 1]}
    path = Path(folder).with_name(f"{Path(folder).name}.yaml")
    path.write_text(yaml.safe_dump({**fields, **changes}, sort_keys=False))
    return definition.load(path)
