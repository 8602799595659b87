"""python -m dgpo train [RECIPE] [key=value ...]     train; RECIPE is a name or a YAML file, `tiny` by default
python -m dgpo sweep FILE [key=value ...]          runs that differ in named factors alone: --jobs, --shard, --report
python -m dgpo plan [RECIPE] [key=value ...]       memory of each GPU and seconds of a step, predicted (plan --help)
python -m dgpo eval [key=value ...]                evaluate a checkpoint on benchmarks; goes on where it was interrupted
python -m dgpo eval --rescore FOLDER               judge the stored completions again
python -m dgpo eval --compare FOLDER FOLDER        the paired differences of two evaluations
python -m dgpo data check FILE [--against TEST ...]  what is in a file of problems, and what of it other files hold
python -m dgpo methods                             the methods, their parameters and defaults
"""

import argparse
import errno
import sys

import yaml

from dgpo import config as configs
from dgpo import methods, ranks


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgpo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher gives it; LOCAL_RANK is used
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a policy")
    train.add_argument(
        "settings", nargs="*", metavar="[RECIPE] key=value", help="a recipe and settings that override it"
    )
    sweep = commands.add_parser("sweep", help="train every cell of a sweep with every seed, as far as is missing")
    sweep.add_argument("file", metavar="FILE", help="the sweep, or the sweep.yaml in its folder")
    sweep.add_argument("settings", nargs="*", metavar="key=value", help="fields of the sweep, or settings of all runs")
    sweep.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time (1)")
    sweep.add_argument("--shard", default="1/1", metavar="i/n", help="the i-th of n parts of the runs")
    sweep.add_argument("--only", metavar="CELL", help="the runs of this cell")
    sweep.add_argument("--report", action="store_true", help="run nothing: table and report of what is there")
    plan = commands.add_parser("plan", help="memory and time of a run, from counted bytes and FLOPs")
    plan.add_argument("settings", nargs="*", metavar="[RECIPE] key=value", help="as for train")
    plan.add_argument("--gpus", type=int, default=1)
    plan.add_argument("--memory", type=float, default=141, metavar="GB", help="of a GPU (141, an H200)")
    plan.add_argument("--length", type=float, metavar="TOKENS", help="mean completion (half of max_new_tokens)")
    plan.add_argument("--bandwidth", type=float, metavar="TB/S", help="of a GPU's memory (4.8)")
    plan.add_argument("--tflops", type=float, help="bfloat16 matrix rate of a GPU, as published (989)")
    plan.add_argument("--mfu", type=float, help="share of it that forward and backward passes reach (0.4)")
    commands.add_parser("methods", help="list the methods")
    evaluation = commands.add_parser("eval", help="evaluate a checkpoint")
    evaluation.add_argument("settings", nargs="*", metavar="key=value", help="settings of dgpo.evaluation.settings")
    either = evaluation.add_mutually_exclusive_group()
    either.add_argument("--rescore", metavar="FOLDER", help="judge the completions of an evaluation again")
    either.add_argument("--compare", nargs=2, metavar="FOLDER", help="paired differences, first minus second")
    commands.add_parser("data", help="report on files of problems")
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["data"]:  # has options of its own
        return _data(words[1:])
    args, rest = parser.parse_known_args(words)  # which leaves over the settings behind an option
    if bad := [word for word in rest if word.startswith("-") or "=" not in word or "settings" not in args]:
        parser.error(f"unrecognized arguments: {' '.join(bad)}")
    if rest:
        args.settings += rest
    try:
        run = {"train": _train, "plan": _plan, "sweep": _sweep, "methods": _methods, "eval": _eval}[args.command]
        return run(args)
    except configs.ConfigError as error:
        return _fail(error, 2)


def _fail(error: Exception, code: int) -> int:
    """The exit code of an error that its message explains; of several ranks that raise the same one, one tells it."""
    if ranks.tells(error):
        print(f"error: {error}", file=sys.stderr)
    return code


def _train(args) -> int:
    recipe, overrides = parse(args.settings)
    try:
        config = configs.load(recipe, **overrides)
    except configs.ConfigError as error:
        error.is_common = True  # all ranks were given the same words
        raise
    from dgpo.checkpoint import CheckpointError  # after validation: these imports take seconds
    from dgpo.memory import OutOfMemory
    from dgpo.mismatch import MismatchError
    from dgpo.rollout import SamplerError
    from dgpo.tasks.math import DataError
    from dgpo.trainer import TrainingDiverged, train

    try:
        folder = train(config)
    except (CheckpointError, DataError, MismatchError, OutOfMemory, SamplerError, TrainingDiverged) as error:
        return _fail(error, 2 if isinstance(error, DataError) else 3)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        return _fail(OSError(f"run_dir={config.run_dir!r} cannot be written to: {error}"), 3)
    if ranks.rank() == 0:
        print(folder)
    ranks.leave()
    return 0


def _plan(args) -> int:
    recipe, overrides = parse(args.settings)
    config = configs.load(recipe, **overrides)
    from dgpo import plan

    scaled = {"memory": (args.memory, 1e9), "bandwidth": (args.bandwidth, 1e12), "flops": (args.tflops, 1e12)}
    given = {name: value * unit for name, (value, unit) in scaled.items() if value is not None}
    hardware = plan.hardware_of(**given, mfu=args.mfu)
    result = plan.predict(config, args.gpus, hardware, args.length)
    print(result)
    return 0 if result.fits else 1


def _sweep(args) -> int:
    from dgpo.sweep import definition

    _, overrides = parse(["tiny", *args.settings])
    sweep, shard = definition.load(args.file, **overrides), definition.parse_shard(args.shard)
    from dgpo.sweep import execute, report, table

    if args.report:
        execute.check(sweep)
    statuses = {} if args.report else execute.execute(sweep, args.jobs, shard, args.only)
    print(report.write(sweep, table.collect(sweep)))
    return int(execute.FAILED in statuses.values())


def _eval(args) -> int:
    if args.settings and (args.rescore or args.compare):
        raise configs.ConfigError("--rescore and --compare take no settings: they read them from the folder")
    recipe, values = parse(args.settings)
    if args.settings and "=" not in args.settings[0]:
        raise configs.ConfigError(f"{recipe!r} is not of the form key=value; an evaluation has no recipes")
    from dgpo.evaluation import settings

    config = settings.load(**values)
    from dgpo.evaluation import report, run
    from dgpo.evaluation.folder import EvaluationError
    from dgpo.tasks.math import DataError

    try:
        if args.compare:
            print(report.differences(*args.compare))
            return 0
        folder = run.rescore(args.rescore) if args.rescore else run.evaluate(config)
    except (DataError, EvaluationError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report.table(folder))
    print(folder)
    return 0


def _data(words: list[str]) -> int:
    from dgpo import data

    return data.main(words)


def _methods(_args) -> int:
    for key in methods.names():
        method = methods.get(key)
        print(f"{key:10s} {(type(method).__doc__ or '').splitlines()[0]}")
        print(f"{'':10s} {', '.join(f'{k}={v}' for k, v in method.params().items()) or 'no parameters'}")
    return 0


def parse(settings: list[str]) -> tuple[str, dict]:
    """A recipe (`tiny` if none is given) and overrides from words of the form `key=value`, values read as YAML."""
    recipe = "tiny"
    if settings and "=" not in settings[0]:
        recipe, *settings = settings
    overrides = {}
    for word in settings:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise configs.ConfigError(f"{word!r} is not of the form key=value")
        if name in overrides:
            raise configs.ConfigError(f"{name} is set twice, the second time by {word!r}")
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise configs.ConfigError(f"{name}={value!r} is not a YAML value") from None
    return recipe, overrides


if __name__ == "__main__":
    sys.exit(main())
