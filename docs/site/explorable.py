"""The page without a kernel: python docs/site/explorable.py > docs/explorable/index.html

One file, from docs/explorable/: page.html, style.css, and the ES modules of src/ joined into one script, since browsers
load no modules from file://. What Python knows is not written twice: parameters, colours, labels and results go in as
the module data.js.
"""

import csv
import dataclasses
import json
import math
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from analysis import style  # noqa: E402
from dgpo import methods  # noqa: E402

BUILT_IN = [
    key
    for key, method in ((key, methods.get_class(key)) for key in methods.names())
    if method.__module__.startswith("dgpo.") and method.has_curve()
]
FOLDER = ROOT / "docs" / "explorable"
ENTRY = "main.js"
LIGHT, DARK = "#FFFFFF", "#16181D"  # backgrounds; style.css names them --paper
LINE, TEXT = (
    {LIGHT: 1.8, DARK: 3},
    4.5,
)  # least contrast of a line (on white the palette as it is) and of a word (WCAG AA)
LINES = {  # the fresh runs: names in runs.csv → method, label
    "grpo": ("grpo", "GRPO"),
    "dgpo_n2_m2": ("dgpo", "DGPO, n 2"),
    "dgpo_n1_m2": ("dgpo", "DGPO, n 1"),
    "cispo": ("cispo", "CISPO"),
    "ce_gppo": ("ce_gppo", "CE-GPPO"),
    "gppo": ("gppo", "GPPO"),
}
IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([\w.]+)";$', re.M)


def page() -> str:
    """The whole page."""
    parts = {"style": colours() + (FOLDER / "style.css").read_text(), "script": script(), "title": "What a clip does"}
    text = (FOLDER / "page.html").read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], text)


def script() -> str:
    """src/ as one classic script: each module a function that is called once, after the modules that it imports."""
    parts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in parts:
            return
        text = data() if name == "data.js" else (FOLDER / "src" / name).read_text()
        for _, needed in IMPORT.findall(text):
            add(needed)
        names = ", ".join(re.findall(r"^export (?:const|function) (\w+)", text, re.M))
        text = IMPORT.sub(lambda found: f"const {{{found[1]}}} = {_module(found[2])};", text)
        text = re.sub(r"^export ", "", text, flags=re.M).strip()
        parts[name] = f"const {_module(name)} = (() => {{\n{text}\nreturn {{ {names} }};\n}})();"

    add(ENTRY)
    return "(() => {\n'use strict';\n" + "\n\n".join(parts.values()) + "\n})();"


def _module(name: str) -> str:
    return "module_" + name.removesuffix(".js")


def data() -> str:
    """The module data.js: METHODS and RESULTS."""
    known = {
        key: {
            "label": style.label(key),
            "paper": key in methods.PAPER,
            "dash": _dash(key),
            "params": {f.name: _rule(f) for f in dataclasses.fields(methods.get_class(key))},
        }
        for key in BUILT_IN
    }
    return f"export const METHODS = {_js(known)};\nexport const RESULTS = {_js(results())};\n"


def _rule(field: dataclasses.Field) -> dict:
    rule = {"above": -math.inf, "below": math.inf, "optional": False, "infinite": False} | dict(field.metadata)
    return {"value": field.default} | rule


def _dash(key: str) -> str:
    dash = style.dash(key)
    return "" if dash == "-" else " ".join(f"{2 * x:g}" for x in dash[1])


def _js(value) -> str:
    return json.dumps(value, ensure_ascii=False)  # json writes Infinity, which is JavaScript


def results() -> dict:
    """The runs of docs/results/fresh: for each line its method and [seed, avg@16, collapsed] of every run."""
    rows = list(csv.DictReader((ROOT / "docs/results/fresh/runs.csv").open()))
    runs = [
        {
            "key": key,
            "label": label,
            "runs": [
                [int(r["seed"]), round(float(r["avg"]), 4), r["collapsed"] == "True"] for r in rows if r["line"] == line
            ],
        }
        for line, (key, label) in LINES.items()
    ]
    return {"start": float(rows[0]["start"]), "lines": runs}


def colours() -> str:
    """Each method's colour as CSS variables, --KEY for lines and --KEY-text for words, on light and on dark paper."""

    def block(paper):
        pairs = (
            (k, readable(style.colour(k), paper, LINE[paper]), readable(style.colour(k), paper, TEXT)) for k in BUILT_IN
        )
        return "".join(f"--{key}:{line};--{key}-text:{text};" for key, line, text in pairs)

    dark = f"--paper:{DARK};{block(DARK)}"
    return (
        f":root{{--paper:{LIGHT};{block(LIGHT)}}}\n"
        f"@media (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}\n"
        f":root[data-theme=dark]{{{dark}}}\n"
    )


def readable(colour: str, paper: str, least: float) -> str:
    """The colour, moved towards black or white until its contrast with the paper is at least `least`.

    Black is ink and turns white on dark paper: a grey would be taken for another method's.
    """
    if colour == "#000000" and paper == DARK:
        return LIGHT
    target = (0, 0, 0) if _luminance(_rgb(paper)) > 0.5 else (1, 1, 1)
    for share in range(0, 101, 2):
        mixed = tuple(c + (t - c) * share / 100 for c, t in zip(_rgb(colour), target, strict=True))
        low, high = sorted((_luminance(mixed), _luminance(_rgb(paper))))
        if (high + 0.05) / (low + 0.05) >= least:
            break
    return "#" + "".join(f"{round(255 * c):02X}" for c in mixed)


def _rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))


def _luminance(rgb) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb]
    return sum(a * c for a, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


if __name__ == "__main__":
    print(page(), end="")
