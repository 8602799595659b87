"""Trains in this process, or in ranks that a launcher starts: decided here, and checked before anything starts."""

from pathlib import Path

import torch

from dgpo import config as configs
from dgpo import methods, plan
from dgpo.config import Config
from dgpo.config_rules import check_machine
from dgpo.distributed import launcher as environment
from dgpo.distributed import process_group
from dgpo.errors import ConfigError
from dgpo.files import atomic_write
from dgpo.launch import launchers
from dgpo.launch.follow import follow
from dgpo.launch.settings import Launch
from dgpo.progress import in_notebook, tell
from dgpo.run.folder import RunFolder


def train(config: Config, how: Launch | None = None) -> Path:
    """Train, and return the run folder. Ranks that are started here go on with the run that the folder holds.

    They are started where `how` names a launcher, for ranks above 1, and for a run on a GPU that a notebook starts: a
    second one in its process would find the memory of the first. Raises ConfigError before anything is started,
    LaunchError with the error of the rank that failed.
    """
    how = how or Launch()
    if not _launched(config, how):
        from dgpo import trainer

        return trainer.train(config)
    config, launcher, made = prepare(config, how)
    if launcher.on_gpus:
        _show_plan(config, how)
    folder = Path(config.run_dir)
    settings, log = (folder.absolute() / "launch" / name for name in ("settings.yaml", "log.txt"))
    atomic_write(settings, lambda scratch: configs.dump(config, scratch))
    ranks = f"{config.ranks} rank{'s' * (config.ranks > 1)}"
    tell(f"{folder}: {ranks} by {how.launch or 'torchrun'}; what they print is in {folder / 'launch' / 'log.txt'}")
    follow(launcher, settings, log, made)
    return folder


def prepare(config: Config, how: Launch) -> tuple[Config, launchers.Torchrun, int]:
    """The settings that ranks get, their launcher, and the steps that are made. Raises ConfigError before any start."""
    if environment.started():
        raise ConfigError("RANK is set: a launcher has started this process, which cannot start ranks of its own")
    if _of_this_process(config.method):
        raise ConfigError(
            f"method={config.method!r} is registered in this process alone, and ranks are others: put its class into a "
            "file and name it as module:Class"
        )
    launcher = launchers.make(config, how)
    launcher.check()
    config = config.model_copy(update={"ranks": launcher.ranks, "resume": not config.overwrite})
    launcher.config = config
    if how.launch != "slurm":  # whose machines are others
        check_machine(config)
    process_group.check_size(config, config.ranks)
    checkpoints = RunFolder(config).checkpoints()
    made = int(checkpoints[-1].name.removeprefix("step_")) if checkpoints and config.resume else 0
    return config, launcher, made


def _launched(config: Config, how: Launch) -> bool:
    """Whether ranks are to be started; not in a process that is one itself."""
    if how.launch:
        return True
    if environment.started() or (config.ranks <= 1 and _of_this_process(config.method)):
        return False
    return config.ranks > 1 or (in_notebook() and config.device != "cpu" and torch.cuda.is_available())


def _of_this_process(method: str) -> bool:
    """Whether a method is known by a class that another process would not find."""
    return ":" not in method and not methods.get_class(method).__module__.startswith("dgpo.")


def _show_plan(config: Config, how: Launch) -> None:
    """Print what plan predicts. Raises ConfigError for what does not fit, unless `force`."""
    predicted = plan.predict(config, config.ranks, _hardware(how))
    print(predicted, flush=True)
    if not (predicted.fits or how.force):
        raise ConfigError(
            f"plan: {predicted.peak / 1e9:.1f} GB at the peak do not fit a GPU of "
            f"{predicted.hardware.memory / 1e9:.0f} GB: more ranks, zero_stage, gradient_checkpointing, "
            "max_tokens_per_micro_batch or offload need less; force=True starts all the same"
        )


def _hardware(how: Launch) -> plan.Hardware:
    """The card that is named, else this machine's, else plan's own."""
    if how.gpu or how.launch in ("deepspeed", "slurm") or not torch.cuda.is_available():
        return plan.hardware_of(how.gpu or "h200")
    here = torch.cuda.get_device_properties(0)
    card = next((name for name in plan.CARDS if name in here.name.lower()), "h200")
    return plan.hardware_of(card, memory=float(here.total_memory))
