"""The talk: python docs/site/slides.py build/reveal.js-5.2.1.tgz > docs/slides/index.html  (`make slides` does all)

One file, from docs/slides/talk.md, the figures of analysis/explorable/src/, and reveal.js as `npm pack` leaves it. In
talk.md a line of --- ends a slide; "Notes:" begins what the speaker reads; <figure data-figure=NAME> is a live figure.
"""

import base64
import re
import sys
import tarfile
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import explorable  # noqa: E402

from analysis import style  # noqa: E402
from analysis.explorable import bundle  # noqa: E402

FOLDER = ROOT / "docs" / "slides"
PARTS = {"reveal_css": "dist/reveal.css", "reveal": "dist/reveal.js", "notes": "plugin/notes/notes.js"}
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
BEST = {  # the runs at each one's best rate: names in runs.csv → method, label
    "grpo": ("grpo", "GRPO"),
    "dgpo_n1_m2": ("dgpo", "DGPO, n 1"),
    "dgpo_n2_m2": ("dgpo", "DGPO, n 2"),
    "dppo": ("dppo", "DPPO"),
    "pg": ("pg", "no clip"),
    "aspo": ("aspo", "ASPO"),
    "cispo": ("cispo", "CISPO"),
    "gppo": ("gppo", "GPPO"),
    "ce_gppo": ("ce_gppo", "CE-GPPO"),
    "drpo": ("drpo", "DRPO"),
}


def page(package: Path) -> str:
    """The whole deck, with the reveal.js of a package."""
    keys, text = bundle.built_in(), (FOLDER / "talk.md").read_text("utf-8")
    looks = "".join(file.read_text("utf-8") for file in (bundle.SOURCE / "figures.css", FOLDER / "slides.css"))
    parts = reveal(package) | {
        "title": re.findall(r"^# (.*)$", text, re.M)[0],
        "style": bundle.colours({key: style.colour(key) for key in keys}) + looks,
        "slides": "\n".join(section(slide) for slide in text.split("\n---\n")),
        "script": "(() => {\n'use strict';\n" + bundle.script("slides.js", data(keys, looks)) + "\n})();",
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], (FOLDER / "slides.html").read_text("utf-8"))


def data(keys: list[str], looks: str) -> str:
    """The text of data.js: methods, the runs of two sweeps, and the looks of a figure."""
    known = {
        "METHODS": {key: bundle.described(key) for key in keys},
        "RESULTS": explorable.results("fresh", explorable.LINES),
        "BEST": explorable.results("best", BEST),
        "STYLE": looks,
    }
    return "".join(f"export const {name} = {bundle.js(value)};\n" for name, value in known.items())


def reveal(package: Path) -> dict[str, str]:
    """What the deck needs of reveal.js, without references to source maps, which are not in it."""
    with tarfile.open(package) as files:
        found = {name: files.extractfile(f"package/{path}") for name, path in PARTS.items()}
        texts = {name: file.read().decode() for name, file in found.items() if file}
    return {name: re.sub(r"\n//# sourceMappingURL=.*", "", text) for name, text in texts.items()}


def section(slide: str) -> str:
    """One slide: its heading, its figure if it has one, the rest, and the notes."""
    body, _, notes = slide.strip().partition("\nNotes:")
    html = re.sub(r'(?<=src=")[^":]+(?=")', lambda found: inlined(found[0]), MARKDOWN.render(body))
    html = html.replace("<p>Source: ", '<p class="source">').replace("<p>= ", '<p class="formula">')
    heading, rest = re.match(r"(<h\d>.*?</h\d>)(.*)", html, re.S).groups()
    figure = "".join(re.findall(r"<figure.*?</figure>", rest, re.S))
    rest = rest.replace(figure, "")
    layout = "title" if "<h1>" in heading else "wide" if 'class="wide"' in figure else "beside" if figure else "plain"
    notes = f'<aside class="notes">{MARKDOWN.render(notes.strip())}</aside>'
    return f'<section class="{layout}">\n{heading}\n{figure}\n<div class="text">{rest}</div>\n{notes}\n</section>'


def inlined(path: str) -> str:
    """A picture as a data URI."""
    return "data:image/png;base64," + base64.b64encode((FOLDER / path).read_bytes()).decode()


if __name__ == "__main__":
    print(page(Path(sys.argv[1])), end="")
