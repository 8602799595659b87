"""Decides whether a training runs in this process or on ranks that a launcher starts, after checking it."""

from pathlib import Path

import torch

from dgpo import cards, methods, plan
from dgpo import config as configs
from dgpo.config import Config
from dgpo.config_rules import check_machine
from dgpo.distributed import launcher as environment
from dgpo.distributed import process_group
from dgpo.errors import ConfigError
from dgpo.files import atomic_write
from dgpo.launch import launchers
from dgpo.launch.follow import Steps, follow
from dgpo.launch.settings import Launch
from dgpo.progress import in_notebook, tell
from dgpo.run.folder import RunFolder


def train(config: Config, how: Launch | None = None) -> Path:
    """Train and return the run folder. Ranks started here resume the run in the folder.

    Ranks are started if `how` names a launcher, if `ranks` is above 1, or if a notebook trains on a GPU: in the
    notebook's own process, a second run would find the first one's memory still in use. Raises ConfigError before
    anything starts, and LaunchError with the error of the rank that failed.
    """
    how = how or Launch()
    if not _launched(config, how):
        from dgpo import trainer

        return trainer.train(config)
    config, launcher, made = prepare(config, how)
    if launcher.on_gpus:
        _show_plan(config, how, launcher.here)
    folder = Path(config.run_dir)
    settings, log = (folder.absolute() / "launch" / name for name in ("settings.yaml", "log.txt"))
    atomic_write(settings, lambda scratch: configs.dump(config, scratch))
    ranks = f"{config.ranks} rank{'s' * (config.ranks > 1)}"
    tell(f"{folder}: {ranks} by {how.launch or 'torchrun'}; what they print is in {folder / 'launch' / 'log.txt'}")
    follow(launcher, settings, log, Steps(config, made))
    return folder


def prepare(config: Config, how: Launch) -> tuple[Config, launchers.Torchrun, int]:
    """The settings for the ranks, their launcher, and the number of steps already made. Raises ConfigError."""
    if environment.started():
        raise ConfigError(
            "RANK is set: this process is a rank already, and cannot start others; unset RANK without a launcher"
        )
    if _of_this_process(config.method):
        raise ConfigError(
            f"method={config.method!r} is registered in this process only, which the ranks cannot see: put its class "
            "into a module and use method=module:Class"
        )
    launcher = launchers.make(config, how)
    launcher.check()
    config = config.model_copy(update={"ranks": launcher.ranks, "resume": not config.overwrite})
    launcher.config = config
    if launcher.here:
        check_machine(config)
    process_group.check_size(config, config.ranks)
    checkpoints = RunFolder(config).checkpoints()
    made = int(checkpoints[-1].name.removeprefix("step_")) if checkpoints and config.resume else 0
    return config, launcher, made


def _launched(config: Config, how: Launch) -> bool:
    """Whether to start ranks; a process that is a rank never does unless `how` names a launcher."""
    if how.launch:
        return True
    if environment.started() or (config.ranks <= 1 and _of_this_process(config.method)):
        return False
    return config.ranks > 1 or (in_notebook() and config.device != "cpu" and torch.cuda.is_available())


def _of_this_process(method: str) -> bool:
    """Whether the method's class was registered in this process, so another process would not find it."""
    return ":" not in method and not methods.get_class(method).__module__.startswith("dgpo.")


def _show_plan(config: Config, how: Launch, here: bool) -> None:
    """Print plan's prediction. Raises ConfigError if the run does not fit, unless `force`."""
    predicted = plan.predict(config, config.ranks + config.sampler_ranks, _hardware(how.gpu, here))
    print(predicted, flush=True)
    if not (predicted.fits or config.force):
        from dgpo import ways

        memory = predicted.hardware.memory
        raise ConfigError(
            f"plan: the peak of {predicted.peak / 1e9:.1f} GB does not fit a GPU of {memory / 1e9:.0f} GB: "
            f"{ways.advice(config, config.ranks, predicted.hardware, memory)}; force=true starts it anyway"
        )


def _hardware(gpu: str | None, here: bool) -> cards.Hardware:
    """The named card; else this machine's, or plan's default for ranks elsewhere."""
    if gpu or not here:
        return cards.hardware_of(gpu or "h200")
    own = torch.cuda.get_device_properties(0)
    card = next((name for name in cards.CARDS if name in own.name.lower()), "h200")
    return cards.hardware_of(card, memory=float(own.total_memory))
