"""python -m dgpo train [RECIPE] [key=value ...]     train; RECIPE is a name or a YAML file, `tiny` by default
python -m dgpo launch [RECIPE] ranks=N [...]       start N ranks by torchrun, deepspeed or SLURM, and train
python -m dgpo sweep FILE [key=value ...]          runs that differ in named factors alone: --jobs, --shard, --report
python -m dgpo plan [RECIPE] [key=value ...]       memory of each GPU and seconds of a step, predicted (plan --help)
python -m dgpo eval [FILE.yaml] [key=value ...]    evaluate a checkpoint on benchmarks; resumes after an interruption
python -m dgpo eval --rescore FOLDER               judge the stored completions again
python -m dgpo eval --compare FOLDER FOLDER        the paired differences of two evaluations
python -m dgpo data check FILE [--against TEST ...]  what is in a file of problems, and what of it other files hold
python -m dgpo settings [NAME]                     every setting: what it is, what is allowed, its default
python -m dgpo methods                             the methods, their parameters and defaults
"""

import argparse
import os
import select
import signal
import sys
from collections.abc import Collection

from dgpo import cards, errors
from dgpo.distributed import launcher
from dgpo.errors import ConfigError, mark_common
from dgpo.plain import path_text
from dgpo.written import read_mapping, read_words

# What takes seconds to import (torch, transformers) is imported by the commands, after their settings are read.


def main(argv: list[str] | None = None) -> int:
    """Run a command line; the exit code. An error that a user can mend is one line on stderr."""
    places: dict[str, str] = {}
    try:
        try:
            code = _run(sys.argv[1:] if argv is None else argv, places)
        except SystemExit:  # argparse has answered
            _flush()
            raise
        _flush()
        return code
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 (`report` raises a bug again)
        if isinstance(error, BrokenPipeError) and _reader_left():
            _drop_output()
            return 128 + signal.SIGPIPE
        common = getattr(error, "is_common", False)  # every rank raises it, and the first one prints it
        return errors.report(error, places, silent=common and launcher.rank() != 0)


def _run(words: list[str], places: dict[str, str]) -> int:
    """The exit code of a command line. What paths are to be called in errors goes into `places`."""
    parser = argparse.ArgumentParser(
        prog="python -m dgpo",
        description=__doc__,
        epilog=errors.EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher gives it; LOCAL_RANK is used
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a policy", formatter_class=_Help)
    train.add_argument(
        "settings", nargs="*", metavar="[RECIPE] key=value", help="a recipe and settings that override it"
    )
    launch = commands.add_parser("launch", help="start the ranks of a training", formatter_class=_Help)
    launch.add_argument("settings", nargs="*", metavar="[RECIPE] key=value", help="as for train, and those below")
    sweep = commands.add_parser(
        "sweep", help="train every cell of a sweep with every seed, as far as is missing", formatter_class=_Help
    )
    sweep.add_argument("file", metavar="FILE", help="the sweep, or the sweep.yaml in its folder")
    sweep.add_argument("settings", nargs="*", metavar="key=value", help="fields of the sweep, or settings of all runs")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    sweep.add_argument("--shard", default="1/1", metavar="i/n", help="the i-th of n parts of the runs")
    sweep.add_argument("--only", metavar="CELL", help="the runs of this cell")
    sweep.add_argument("--report", action="store_true", help="run nothing: write table and report of the finished runs")
    plan = commands.add_parser("plan", help="memory and time of a run, from counted bytes and FLOPs")
    plan.add_argument("settings", nargs="*", metavar="[RECIPE] key=value", help="as for train")
    plan.add_argument("--gpus", type=int, default=1, help="in all: sampler_ranks of them sample, the others train")
    plan.add_argument("--gpu", default="h200", metavar="CARD", help="a100, h100, h200 (the default) or b200")
    plan.add_argument("--memory", type=float, metavar="GB", help="of a GPU, in place of the card's")
    plan.add_argument("--length", type=float, metavar="TOKENS", help="mean completion (half of max_new_tokens)")
    plan.add_argument("--bandwidth", type=float, metavar="TB/S", help="of a GPU's memory")
    plan.add_argument("--tflops", type=float, help="bfloat16 matrix rate of a GPU, as published")
    plan.add_argument("--mfu", type=float, help="share of it that forward and backward passes reach (0.31)")
    described = commands.add_parser("settings", help="describe the settings")
    described.add_argument("name", nargs="?", metavar="NAME", help="one of them, such as group_size or tiny.hidden")
    described.add_argument(
        "--of", choices=("train", "launch", "eval", "sweep"), default="train", help="the command (train)"
    )
    form = described.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="as Markdown tables")
    form.add_argument("--schema", action="store_true", help="as a JSON schema, for editors")
    commands.add_parser("methods", help="list the methods")
    evaluation = commands.add_parser("eval", help="evaluate a checkpoint", formatter_class=_Help)
    evaluation.add_argument(
        "settings", nargs="*", metavar="[FILE.yaml] key=value", help="as in dgpo.evaluation.settings"
    )
    either = evaluation.add_mutually_exclusive_group()
    either.add_argument("--rescore", metavar="FOLDER", help="judge the completions of an evaluation again")
    either.add_argument("--compare", nargs=2, metavar="FOLDER", help="paired differences, first minus second")
    commands.add_parser("data", help="report on files of problems")
    if words[:1] == ["data"]:  # has options of its own
        return _data(words[1:])
    args, rest = parser.parse_known_args(words)  # which leaves over the settings behind an option
    if bad := [word for word in rest if word.startswith("-") or "=" not in word or "settings" not in args]:
        parser.error(f"unrecognized arguments: {' '.join(bad)}")
    if rest:
        args.settings += rest
    run = {"train": _train, "launch": _launch, "plan": _plan, "sweep": _sweep, "eval": _eval, "methods": _methods}
    return {**run, "settings": _settings}[args.command](args, places)


def _flush() -> None:
    """Send out what was printed, while an error can still be told."""
    try:
        if sys.stdout is not None:  # None where it was closed before this process began
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop_output()
        raise errors.PlaceError(f"standard output cannot be written to: {error.strerror}") from error


def _reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    pipe = select.poll()
    pipe.register(1, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in pipe.poll(0))


def _drop_output() -> None:
    """What is left to print would fail again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _train(args, places) -> int:
    launcher.check()
    from dgpo import config as configs

    recipe, overrides = parse(args.settings, configs.Config.texts())
    try:
        config = configs.load(recipe, **overrides)
    except ConfigError as error:
        mark_common(error)  # all ranks were given the same words
        raise
    places |= config.paths()
    from dgpo.distributed import process_group  # after validation: these imports take seconds
    from dgpo.trainer import train

    folder = train(config)
    if process_group.rank() == 0:
        print(folder)
    process_group.destroy()
    return 0


def _launch(args, places) -> int:
    from dgpo import config as configs
    from dgpo.launch import settings

    recipe, overrides = parse(args.settings, configs.Config.texts() | settings.Launch.texts())
    config, how = settings.load(recipe, **overrides)
    places |= config.paths()
    from dgpo.launch.start import train

    print(train(config, how.model_copy(update={"launch": how.launch or "torchrun"})))
    return 0


def _plan(args, places) -> int:
    from dgpo import config as configs

    recipe, overrides = parse(args.settings, configs.Config.texts())
    config = configs.load(recipe, **overrides)
    places |= config.paths()
    from dgpo import plan, ways

    scaled = {"memory": (args.memory, 1e9), "bandwidth": (args.bandwidth, 1e12), "flops": (args.tflops, 1e12)}
    given = {name: value * unit for name, (value, unit) in scaled.items() if value is not None}
    hardware = cards.hardware_of(args.gpu, **given, mfu=args.mfu)
    result = plan.predict(config, args.gpus, hardware, args.length)
    print(result)
    if not result.fits:
        ranks = args.gpus - config.sampler_ranks
        print(f"\n{ways.advice(config, ranks, hardware, hardware.memory)}")
    elif faster := ways.apart(config, result):
        print(f"\n{faster}")
    return 0 if result.fits else 1


def _sweep(args, places) -> int:
    launcher.check()
    from dgpo.config import Config
    from dgpo.sweeps import definition

    _, overrides = parse(["tiny", *args.settings], Config.texts() | definition.Sweep.texts())
    sweep, shard = definition.load(args.file, **overrides), definition.parse_shard(args.shard)
    places |= sweep.paths()
    from dgpo.sweeps import execute, report, table

    if args.report:
        execute.check(sweep)
    statuses = {} if args.report else execute.execute(sweep, args.jobs, shard, args.only)
    print(report.write(sweep, table.collect(sweep)))
    return int(execute.FAILED in statuses.values())


def _eval(args, places) -> int:
    launcher.check()
    if args.settings and (args.rescore or args.compare):
        raise ConfigError("--rescore and --compare take no settings: they read them from the folder")
    from dgpo.evaluation import settings

    recipe, values = parse(args.settings, settings.EvalConfig.texts())
    if args.settings and "=" not in args.settings[0]:
        if not recipe.endswith((".yaml", ".yml")):
            raise ConfigError(f"{recipe!r} is neither of the form key=value nor a YAML file of settings")
        values = read_mapping(recipe, "settings") | values
    config = settings.load(**values)
    folders = [path_text(folder) for folder in args.compare or [args.rescore] if folder]
    places |= {repr(folder): folder for folder in folders} or config.paths()
    from dgpo.distributed import process_group
    from dgpo.evaluation import report, run

    if args.compare:
        print(report.differences(*folders))
        return 0
    folder = run.rescore(*folders) if folders else run.evaluate(config)
    if process_group.rank() == 0:
        print(report.table(folder))
        print(folder)
    process_group.destroy()
    return 0


def _data(words: list[str]) -> int:
    from dgpo import data

    return data.main(words)


def _methods(_args, _places) -> int:
    from dgpo import methods

    for key in methods.names():
        method = methods.get(key)
        print(f"{key:10s} {(type(method).__doc__ or '').splitlines()[0]}")
        print(f"{'':10s} {', '.join(f'{k}={v}' for k, v in method.params().items()) or 'no parameters'}")
    return 0


def _settings(args, _places) -> int:
    from dgpo import describe

    kind = describe.COMMANDS[args.of]
    form = describe.schema if args.schema else describe.markdown if args.markdown else describe.reference
    print(describe.one(args.name) if args.name else form(kind))
    return 0


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help that ends in the settings of the command; they are imported only when someone wants the help."""

    def __init__(self, prog: str):
        super().__init__(prog)
        self._command = prog.rpartition(" ")[2]

    def format_help(self) -> str:
        from dgpo import describe

        return f"{super().format_help()}\n{describe.reference(describe.COMMANDS[self._command])}\n"


def parse(settings: list[str], texts: Collection[str] = ()) -> tuple[str, dict]:
    """A recipe (`tiny` if none is given) and overrides from words of the form `key=value`; see `read_words`."""
    recipe = "tiny"
    if settings and "=" not in settings[0]:
        recipe, *settings = settings
    return recipe, read_words(settings, texts)


if __name__ == "__main__":
    code = main()
    if code == 130:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # one who presses it again wants no more of this process
    if code == 0 and launcher.size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)  # while Python takes itself apart, gloo's threads sometimes abort a rank that has done its work
    sys.exit(code)
