"""Settings for starting the ranks of a training. They are not part of the run's: no number of the run depends on them.

config, how = load("tiny", method="dgpo", ranks=2, launch="torchrun")
"""

from functools import partial
from os import PathLike
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field

from dgpo import config as configs
from dgpo.settings import PathText, Positive, Settings, Texts, refusal, setting

_launch = partial(setting, group="launch", resume="free")
_Word = Annotated[str, BeforeValidator(lambda value: str(value) if type(value) is int else value)]


class Launch(Settings):
    """How and where the ranks start. Their number, `ranks`, is a setting of the run."""

    launch: Literal["torchrun", "deepspeed", "slurm"] | None = _launch(
        None, description="what starts the ranks; none: torchrun if ranks is above 1, or if a notebook trains on a GPU"
    )
    nodes: Positive = _launch(1, description="machines of a SLURM job")
    partition: _Word | None = _launch(None, description="of SLURM; none: its default")
    time: _Word | None = _launch(
        None, description="longest time of a SLURM job: minutes, or as 2-00:00:00; none: a day"
    )
    sbatch: Texts = _launch([], description="more options of sbatch, such as --account=mine")
    hostfile: PathText | None = _launch(None, description="for deepspeed: a line `HOST slots=RANKS` for each machine")
    port: Annotated[int, Field(ge=0, le=65535)] = _launch(0, description="where the ranks meet; 0: a free one")
    gpu: str | None = _launch(
        None, description="card for plan's prediction; none: this machine's, or h200 for ranks elsewhere"
    )


def make(values: dict[str, Any]) -> Launch:
    """A Launch of these settings. Raises ConfigError for values that are not allowed."""
    try:
        return Launch(**values)
    except pydantic.ValidationError as error:
        raise refusal(error) from None


def split(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split settings into those of the run and those of Launch."""
    own = {name: value for name, value in values.items() if name in Launch.model_fields}
    return {name: value for name, value in values.items() if name not in own}, own


def load(recipe: str | PathLike | None = None, **overrides: Any) -> tuple[configs.Config, Launch]:
    """The Config of a recipe with overrides, and the Launch that some overrides describe. Raises ConfigError."""
    run, own = split(overrides)
    how = make(own)
    return configs.load(recipe, **run), how
