"""The parameters of a notebook. An unknown one stops the notebook; papermill only warns.

A notebook's parameters cell begins with `# Parameters of this notebook`; the cell that papermill injects after it
begins with `# Parameters`. Only the latest run of the first, and what was injected after it, count: a line deleted from
the cell is gone. A notebook that trains accepts every setting of `Config`, every parameter of its method (`config`) and
every setting of `Launch` (`launch`); any other accepts the names in its own cell (`check`).
"""

import ast
from pathlib import Path

from dgpo import config as configs
from dgpo.launch import settings

_OWN, _INJECTED = "# Parameters of this notebook", "# Parameters"


def config(namespace: dict) -> configs.Config:
    """The Config of a notebook's parameters; `namespace` is its `globals()`.

    One may be `recipe`, whose settings the others override; None keeps the recipe's value. Raises ConfigError for an
    unknown name, and for values that are not allowed.
    """
    values, _ = settings.split(_parameters(namespace))
    return configs.load(values.pop("recipe", None), **values)


def launch(namespace: dict) -> settings.Launch:
    """What a notebook's parameters say of who starts the ranks. Raises ConfigError for values that are not allowed."""
    return settings.make(settings.split(_parameters(namespace))[1])


def check(namespace: dict) -> None:
    """Raise ConfigError for an injected name that the notebook's own parameters cell does not have."""
    own, injected = parameter_names(namespace)
    if unknown := [name for name in injected if name not in own]:
        raise configs.ConfigError(f"unknown parameter {unknown[0]!r}; this notebook has: {', '.join(own)}")


def find(path: str | Path) -> Path:
    """A path of the repository, as papermill (in its root) and JupyterLab (in the notebook's folder) see it."""
    path = Path(path)
    return path if path.is_absolute() or path.exists() else ".." / path


def parameter_names(namespace: dict) -> tuple[list[str], list[str]]:
    """The names assigned in the notebook's own parameters cell, and in what was injected after it last ran."""
    cells = [source.strip() for source in namespace.get("In", ())]
    ran = [i for i, source in enumerate(cells) if source.startswith(_OWN)]
    if not ran:
        raise configs.ConfigError(f"no executed cell begins with {_OWN!r}: run the parameters cell first")
    later = [source for source in cells[ran[-1] + 1 :] if source.split("\n")[0] == _INJECTED]
    return _assigned(cells[ran[-1]]), _assigned(later[-1]) if later else []


def _parameters(namespace: dict) -> dict:
    """The parameters that are not None."""
    own, injected = parameter_names(namespace)
    return {name: namespace[name] for name in dict.fromkeys(own + injected) if namespace[name] is not None}


def _assigned(cell: str) -> list[str]:
    names = []
    for node in ast.parse(cell).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
