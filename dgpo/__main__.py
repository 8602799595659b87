"""python -m dgpo train [RECIPE] [key=value ...]     train; RECIPE is a name or a YAML file, `tiny` by default
python -m dgpo data check FILE [--against TEST ...]  what is in a file of problems, and what of it other files hold
python -m dgpo methods                             the methods, their parameters and defaults
"""

import argparse
import sys

import yaml

from dgpo import config as configs
from dgpo import methods


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m dgpo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train a policy")
    train.add_argument(
        "settings", nargs="*", metavar="[RECIPE] key=value", help="a recipe and settings that override it"
    )
    commands.add_parser("methods", help="list the methods")
    commands.add_parser("data", help="report on files of problems")
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["data"]:  # has options of its own
        return _data(words[1:])
    args = parser.parse_args(words)
    try:
        return {"train": _train, "methods": _methods}[args.command](args)
    except configs.ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _train(args) -> int:
    recipe, overrides = parse(args.settings)
    config = configs.load(recipe, **overrides)
    from dgpo.tasks.math import DataError  # after validation: these imports take seconds
    from dgpo.trainer import TrainingDiverged, train

    try:
        folder = train(config)
    except (DataError, TrainingDiverged) as error:
        print(f"error: {error}", file=sys.stderr)
        return 3 if isinstance(error, TrainingDiverged) else 2
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
        try:
            overrides[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise configs.ConfigError(f"{name}={value!r} is not a YAML value") from None
    return recipe, overrides


if __name__ == "__main__":
    sys.exit(main())
