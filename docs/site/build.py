"""Build the site, offline: python docs/site/build.py [--executed FOLDER] [--out docs/_build]

The repository's pages are copied as they lie, so that their links hold on a forge and here alike. Beside them come
pages made from the code: settings, a card for each method, the API. Notebooks are shown as they are, or as executed
in a FOLDER (`make notebooks` leaves them in runs/notebooks).
"""

import argparse
import shutil
import sys
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

import pages  # noqa: E402

COPIED = ("docs", "benchmarks", "notebooks", "examples", "dgpo", "analysis", "tests")
PAGES = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "CITATION.cff")
CONTENTS = {
    "Guide": [
        "docs/story", "docs/explorable/README", "docs/training", "docs/methods", "docs/your_own", "docs/sweeps",
        "docs/runs", "docs/data", "docs/verifier",
    ],
    "Clusters": ["docs/cluster", "docs/vllm"],
    "Other trainers": [
        "docs/integrations/README",
        *(f"docs/integrations/{path.stem}" for path in sorted(ROOT.glob("docs/integrations/[a-z]*.md"))),
    ],
    "Notebooks": [f"notebooks/{path.stem}" for path in sorted(ROOT.glob("notebooks/*.ipynb"))],
    "Solutions": [f"notebooks/solutions/{path.stem}" for path in sorted(ROOT.glob("notebooks/solutions/*.ipynb"))],
    "Reference": ["docs/settings", "docs/cards/index", "docs/api/index"],
    "Behind it": [
        "docs/paper", "docs/conventions", "docs/architecture", "docs/results/README", "benchmarks/RESULTS",
        "docs/log", "CONTRIBUTING", "CHANGELOG",
    ],
    "Reports of the sweeps": [
        str(path.relative_to(ROOT).with_suffix("")) for path in sorted(ROOT.glob("docs/results/*/report.md"))
    ],
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--executed", type=Path, help="folder of executed notebooks")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "_build")
    args = parser.parse_args(argv)
    source, out = args.out / "source", args.out / "html"
    shutil.rmtree(args.out, ignore_errors=True)
    assemble(source, args.executed)
    with docutils_namespace():
        site = Sphinx(source, Path(__file__).parent, out, args.out / "doctrees", "html", warningiserror=True)
        site.build(force_all=True)
    for folder in ("docs/explorable", "docs/slides"):
        (out / folder).mkdir(exist_ok=True)
        shutil.copy(ROOT / folder / "index.html", out / folder)
    if not site.statuscode:
        print(f"open {out / 'index.html'}")
    return site.statuscode


def assemble(source: Path, executed: Path | None) -> None:
    """Lay out what Sphinx reads: the repository's files, and the pages made from code."""
    ignore = shutil.ignore_patterns("_build", "__pycache__", "*.pyc", "site")
    for name in COPIED:
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in PAGES:
        shutil.copy(ROOT / name, source / name)
    for notebook in (source / "notebooks").rglob("*.ipynb"):
        if executed and (found := executed / notebook.relative_to(source / "notebooks")).exists():
            shutil.copy(found, notebook)
    pages.write(source / "docs")
    contents = "\n".join(
        f"```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```"
        for caption, names in CONTENTS.items()
    )
    (source / "index.md").write_text((source / "README.md").read_text() + "\n" + contents + "\n")
    (source / "README.md").unlink()


if __name__ == "__main__":
    sys.exit(main())
