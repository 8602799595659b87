"""The parameters of a notebook: an unknown one stops it, where papermill only warns.

A notebook's parameters cell and the cell that papermill injects behind it both begin with `# Parameters`. A notebook
that trains takes every setting of `Config` and every parameter of its method (`config`); any other one takes the names
of its own parameters cell (`check`).
"""

import ast

from dgpo import config as configs

_MARK = "# Parameters"


def config(namespace: dict) -> configs.Config:
    """The Config of a notebook's parameters; `namespace` is its `globals()`.

    One of them may be `recipe`, what the others override; None leaves a setting as it is there. Raises ConfigError for
    an unknown name, and for values that are not allowed.
    """
    values = {name: namespace[name] for name in parameter_names(namespace) if namespace[name] is not None}
    return configs.load(values.pop("recipe", None), **values)


def parameter_names(namespace: dict) -> list[str]:
    """The names assigned in the executed cells that begin with `# Parameters`, in order of appearance."""
    return list(dict.fromkeys(name for cell in _marked_cells(namespace) for name in _assigned(cell)))


def check(namespace: dict) -> None:
    """Raise ConfigError for a name in the injected cell that the notebook's own parameters cell does not have."""
    own, *injected = (_assigned(cell) for cell in _marked_cells(namespace))
    if unknown := [name for names in injected for name in names if name not in own]:
        raise configs.ConfigError(f"unknown parameter {unknown[0]!r}; this notebook has: {', '.join(own)}")


def _marked_cells(namespace: dict) -> list[str]:
    cells = [source for source in namespace.get("In", ()) if source.lstrip().startswith(_MARK)]
    if not cells:
        raise configs.ConfigError(f"no executed cell begins with {_MARK!r}: run the parameters cell first")
    return cells


def _assigned(cell: str) -> list[str]:
    names = []
    for node in ast.parse(cell).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names += [target.id for target in targets if isinstance(target, ast.Name)]
    return names
