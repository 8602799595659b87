"""The figures of src/ as one script and one style sheet: for the page (docs/site/explorable.py) and for the widgets.

The ES modules are joined because browsers load none from file:// and a widget is one file. Nothing that Python knows
is written twice: parameters, colours and labels go in as the module data.js.
"""

import dataclasses
import json
import math
import re
from collections.abc import Iterable
from pathlib import Path

from analysis import style
from dgpo import methods

SOURCE = Path(__file__).parent / "src"
LIGHT, DARK = "#FFFFFF", "#16181D"  # backgrounds, --paper
NEUTRAL = {
    LIGHT: "color-scheme:light;--ink:#1d2129;--soft:#5b6270;--faint:#e4e6ea;--shade:#f3f4f6;--edge:#c9cdd4;"
    "--raised:#ffffff;",
    DARK: "color-scheme:dark;--ink:#e8eaee;--soft:#a3aab7;--faint:#2a2e36;--shade:#1f2229;--edge:#454b57;"
    "--raised:#3a404c;",
}
LINE = {LIGHT: 1.8, DARK: 3}  # least contrast of a line, which leaves the palette unchanged on white
TEXT = 4.5  # least contrast of a word (WCAG AA)
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";$', re.M)


def built_in() -> list[str]:
    """The keys of the suite's own methods, whose formulas are in src/weights.js too."""
    return [key for key in names().values() if methods.get_class(key).__module__.startswith("dgpo.")]


def script(entry: str, data: str) -> str:
    """src/`entry` and its imports: each module is a function that is called once, after the modules that it imports.

    `data` is the text of data.js. The last declared name, `module_ENTRY`, holds the entry's exports.
    """
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in parts:
            return
        text = data if name == "data.js" else (SOURCE / name).read_text("utf-8")
        for _, needed in _IMPORT.findall(text):
            add(needed)
        names = ", ".join(re.findall(r"^export (?:const|function) (\w+)", text, re.M))
        text = _IMPORT.sub(lambda found: f"const {{{found[1]}}} = {_module(found[2])};", text)
        text = re.sub(r"^export ", "", text, flags=re.M).strip()
        parts[name] = f"const {_module(name)} = (() => {{\n{text}\nreturn {{ {names} }};\n}})();"

    add(entry)
    return "\n\n".join(parts.values())


def widget(entry: str, run: dict | None, hues: dict[str, str]) -> str:
    """The ES module of an anywidget, from src/`entry`: figures, methods, colours, and the facts about a run.

    `hues` are further colours, by the name of their CSS variable.
    """
    keys = names()
    known = {name: described(key) | ({} if key in built_in() else {"own": True}) for name, key in keys.items()}
    named = {name: style.colour(key) for name, key in keys.items()} | hues
    looks = colours(named, ":host") + (SOURCE / "figures.css").read_text("utf-8")
    data = {"METHODS": known, "RUN": run, "STYLE": looks}
    text = script(entry, "".join(f"export const {name} = {js(value)};\n" for name, value in data.items()))
    return f"export default {{ render({{ model, el }}) {{\n{text}\nreturn {_module(entry)}.start(model, el);\n}} }};"


def names() -> dict[str, str]:
    """The key of every registered method that has a curve, by its name in CSS and in a state."""
    return {name(key): key for key in methods.names() if methods.get_class(key).has_curve()}


def name(key: str) -> str:
    return re.sub(r"\W", "_", key)


def _module(name: str) -> str:
    return "module_" + name.removesuffix(".js")


def described(key: str) -> dict:
    """What a figure needs to know about a method: its label, dashes, and parameters with their ranges.

    For a method of your own these are the numeric parameters: each gets a dial.
    """
    kind = methods.get_class(key)
    fields = [f for f in dataclasses.fields(kind) if _numeric(f.default) or kind.__module__.startswith("dgpo.")]
    return {
        "label": style.label(key),
        "paper": key in methods.PAPER,
        "dash": _dash(key),
        "params": {f.name: _rule(f) for f in fields},
    }


def _numeric(value) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _rule(field: dataclasses.Field) -> dict:
    rule = {"above": -math.inf, "below": math.inf, "optional": False, "infinite": False} | dict(field.metadata)
    return {"value": field.default} | rule


def _dash(key: str) -> str:
    dash = style.dash(key)
    return "" if dash == "-" else " ".join(f"{2 * x:g}" for x in dash[1])


def js(value) -> str:
    """A value as JavaScript; json writes Infinity, which JavaScript reads."""
    return json.dumps(value, ensure_ascii=False)


def colours(named: dict[str, str], root: str = ":root") -> str:
    """Colours as CSS variables on light and on dark paper: --NAME for lines and --NAME-text for words.

    `root` is ":root" of a page or ":host" of a shadow tree.
    """

    def block(paper):
        pairs = ((k, readable(c, paper, LINE[paper]), readable(c, paper, TEXT)) for k, c in named.items())
        return f"--paper:{paper};{NEUTRAL[paper]}" + "".join(f"--{k}:{c};--{k}-text:{t};" for k, c, t in pairs)

    def where(condition):
        return f":host({condition})" if root == ":host" else root + condition

    return (
        f"{root}{{{block(LIGHT)}}}\n"
        f"@media (prefers-color-scheme:dark){{{where(':not([data-theme=light])')}{{{block(DARK)}}}}}\n"
        f"{where('[data-theme=dark]')}{{{block(DARK)}}}\n"
    )


def readable(colour: str, paper: str, least: float) -> str:
    """The colour, moved towards black or white until its contrast with the paper is at least `least`.

    Black turns white on dark paper, since a grey would be taken for another method's.
    """
    if colour == "#000000" and paper == DARK:
        return LIGHT
    target = (0, 0, 0) if _luminance(_rgb(paper)) > 0.5 else (1, 1, 1)
    steps = ([c + (t - c) * k / 50 for c, t in zip(_rgb(colour), target, strict=True)] for k in range(51))
    mixed = next(rgb for rgb in steps if _contrast(rgb, _rgb(paper)) >= least)
    return "#" + "".join(f"{round(255 * c):02X}" for c in mixed)


def _contrast(a: Iterable[float], b: Iterable[float]) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _luminance(rgb: Iterable[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(a * c for a, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
