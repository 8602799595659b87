"""From a notebook's parameters to a validated Config.

Papermill only warns about a parameter that a notebook does not know. Here every name that is assigned in the parameters
cell, or in the cell that papermill injects behind it, must be a setting or a parameter of the method, or the run stops.
Both cells are known by their first line, `# Parameters`.
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
    cells = [source for source in namespace.get("In", ()) if source.lstrip().startswith(_MARK)]
    if not cells:
        raise configs.ConfigError(f"no executed cell begins with {_MARK!r}: run the parameters cell first")
    names = {}
    for node in (node for cell in cells for node in ast.parse(cell).body):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id: None for target in targets if isinstance(target, ast.Name)}
    return list(names)
