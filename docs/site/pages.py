"""Pages made from the code: settings (python docs/site/pages.py > docs/settings.md), method cards, the API."""

import dataclasses
import importlib
import inspect
import pkgutil
from pathlib import Path

import analysis
import dgpo
from analysis import plots, properties, style
from dgpo import describe, methods

CARD = """# {label}

`{key}`: {first}

```text
{rest}
```

{curve}

## Parameters

{parameters}

{properties}

Code: `{where}`. Where a library's default differs, [conventions](../conventions.md) says so.
"""

CURVE = """![The weight of {label} on ∇log π and on ∇π against the ratio]({key}.svg)

Dashed grey: unclipped importance sampling. Upper row: good tokens; lower row: bad ones. π_old = 0.05."""
NO_CURVE = "It has no curve: its gradient depends on more than the ratio, probability and advantage of a token."
PROPERTIES = """## Properties, derived from the weight alone

```text
{text}
```"""


def write(folder: Path) -> None:
    """Write all of them into the folder of the site's pages."""
    _cards(folder / "cards")
    _api(folder / "api")


def settings() -> str:
    titles = {"train": "Training: `python -m dgpo train`", "launch": "Ranks: `launch`", "eval": "Evaluation: `eval`"}
    titles["sweep"] = "Sweeps: `sweep`"
    parts = ["# Settings", "`python -m dgpo settings NAME` prints one of them. On resume, a setting is:"]
    parts.append("\n".join(f"- **{name}**: {text}" for name, text in describe.RESUME.items()))
    parts += [f"## {titles[command]}\n\n{describe.markdown(kind)}" for command, kind in describe.COMMANDS.items()]
    return "\n\n".join(parts) + "\n"


def _cards(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for key in methods.names():
        method = methods.get(key)
        first, _, rest = inspect.getdoc(type(method)).partition("\n")
        curve, derived = NO_CURVE, ""
        if method.has_curve():
            plots.method_curves([method]).savefig(folder / f"{key}.svg")
            curve = CURVE.format(label=style.label(key), key=key)
            derived = PROPERTIES.format(text=properties.render(properties.describe(method)))
        rows = [f"| `{f.name}` | `{getattr(method, f.name)}` |" for f in dataclasses.fields(method)]
        (folder / f"{key}.md").write_text(
            CARD.format(
                label=style.label(key),
                key=key,
                first=first,
                rest=rest.strip() or first,
                parameters="\n".join(["| parameter | default |", "|---|---|", *rows]) if rows else "None.",
                curve=curve,
                properties=derived,
                where=f"{type(method).__module__}.{type(method).__qualname__}",
            )
        )
    listed = "\n".join(methods.names())
    (folder / "index.md").write_text(f"# Method cards\n\nOne page a method.\n\n```{{toctree}}\n{listed}\n```\n")


def _api(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for package in (dgpo, analysis):
        found = [package.__name__, *(m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + "."))]
        for name in found:
            if name.endswith("__main__") or name == "dgpo.rollout.vllm" or _needs_a_trainer(name):  # to be imported
                continue
            (folder / f"{name}.md").write_text(_module(name))
            names.append(name)
    listed = "\n".join(names)
    (folder / "index.md").write_text(f"# API\n\nEvery module, from its docstrings.\n\n```{{toctree}}\n{listed}\n```\n")


def _needs_a_trainer(name: str) -> bool:
    return name.startswith("dgpo.integrations.") and not name.endswith((".common", ".records"))


def _module(name: str) -> str:
    """The docstrings of a module as they are written: their formulas are aligned by hand."""
    module = importlib.import_module(name)
    parts = [f"# {name}", _text(inspect.getdoc(module))]
    for label, value in vars(module).items():
        own = getattr(value, "__module__", None) == name and not label.startswith("_")
        if own and inspect.isclass(value):
            parts += [f"## class {label}", _text(inspect.getdoc(value))]
            members = [(f"{label}.{n}", v) for n, v in vars(value).items() if not n.startswith("_") and callable(v)]
            parts += [part for n, v in members if inspect.getdoc(v) for part in (f"### {n}", _signed(n, v))]
        elif own and inspect.isfunction(value):
            parts += [f"## {label}", _signed(label, value)]
    return "\n\n".join(parts) + "\n"


def _signed(name: str, function) -> str:
    try:
        signature = str(inspect.signature(function))
    except (TypeError, ValueError):
        signature = "(…)"
    return _text(f"{name}{signature}\n\n{inspect.getdoc(function) or ''}".strip())


def _text(text: str | None) -> str:
    return f"````text\n{text or ''}\n````"


if __name__ == "__main__":
    print(settings(), end="")
