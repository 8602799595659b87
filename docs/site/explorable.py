"""The page without a kernel: python docs/site/explorable.py > docs/explorable/index.html

One file, from page.html and page.css of docs/explorable/ and the figures of analysis/explorable/src/. The results of
act 6 come from docs/results.
"""

import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from analysis import style  # noqa: E402
from analysis.explorable import bundle  # noqa: E402

FOLDER = ROOT / "docs" / "explorable"
LINES = {  # the fresh runs: names in runs.csv → method, label
    "grpo": ("grpo", "GRPO"),
    "dgpo_n2_m2": ("dgpo", "DGPO, n 2"),
    "dgpo_n1_m2": ("dgpo", "DGPO, n 1"),
    "cispo": ("cispo", "CISPO"),
    "ce_gppo": ("ce_gppo", "CE-GPPO"),
    "gppo": ("gppo", "GPPO"),
}


def page() -> str:
    """The whole page."""
    keys = bundle.built_in()
    known = bundle.js({key: bundle.described(key) for key in keys})
    data = f"export const METHODS = {known};\nexport const RESULTS = {bundle.js(results('fresh', LINES))};\n"
    looks = (bundle.SOURCE / "figures.css").read_text() + (FOLDER / "page.css").read_text()
    parts = {
        "title": "What a clip does",
        "style": bundle.colours({key: style.colour(key) for key in keys}) + looks,
        "script": "(() => {\n'use strict';\n" + bundle.script("main.js", data) + "\n})();",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], (FOLDER / "page.html").read_text())


def results(sweep: str, lines: dict[str, tuple[str, str]]) -> dict:
    """The runs of docs/results/`sweep`: for each line its method and [seed, avg@16, collapsed] of every run."""
    rows = list(csv.DictReader((ROOT / "docs/results" / sweep / "runs.csv").open()))
    runs = [
        {
            "key": key,
            "label": label,
            "runs": [
                [int(r["seed"]), round(float(r["avg"]), 4), r["collapsed"] == "True"] for r in rows if r["line"] == line
            ],
        }
        for line, (key, label) in lines.items()
    ]
    return {"start": float(rows[0]["start"]), "lines": runs}


if __name__ == "__main__":
    print(page(), end="")
