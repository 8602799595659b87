"""The site builds without a warning, and every link in it leads somewhere; the README's code runs as it is written."""

import gzip
import io
import os
import re
import subprocess
import sys
import tarfile
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from running import ROOT

import dgpo
from dgpo import describe, methods


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.links, self.ids = [], set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        for name in ("href", "src"):
            if given.get(name) and "srcset" not in given:
                self.links.append(given[name])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    build = [sys.executable, str(ROOT / "docs/site/build.py"), "--out", str(out)]
    done = subprocess.run(build, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "WARNING" not in done.stderr
    return out / "html"


def test_every_link_within_the_site_leads_somewhere(site):
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = page = _Page()
        page.feed(path.read_text())
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("data:"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.exists(), (path.relative_to(site), link)
            if parts.fragment and target in pages and not target.name.startswith(("genindex", "search")):
                assert unquote(parts.fragment) in pages[target].ids, (path.relative_to(site), link)


def test_it_has_a_card_for_each_method_and_every_setting(site):
    for key in (key for key in methods.names() if type(methods.get(key)).__module__.startswith("dgpo.")):
        assert (site / f"docs/cards/{key}.html").exists()
    settings = (site / "docs/settings.html").read_text()
    for kind in describe.COMMANDS.values():
        for row in describe.settings_of(kind):
            assert f">{row.name}<" in settings, row.name
    assert "policy_loss" in (site / "docs/api/dgpo.api.html").read_text()


def blocks(language):
    for path in (ROOT / "README.md", ROOT / "docs" / "methods.md"):
        for text in re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.S):
            yield path.name, text


def test_the_python_of_the_readme_runs_as_written(tmp_path, monkeypatch):
    """In order, in one namespace, as a reader would; training is cut to what a test can wait for."""
    from dgpo import api

    monkeypatch.chdir(tmp_path)
    small = {"steps": 1, "eval_problems": 4, "eval_samples": 2, "tiny": {"steps": 20, "hidden": 32}}
    train, evaluate = api.train, api.evaluate
    monkeypatch.setattr(dgpo, "train", lambda *words, **settings: train(*words, **small, **settings))
    monkeypatch.setattr(dgpo, "evaluate", lambda *words, **settings: evaluate(*words, generated_problems=2, **settings))
    namespace = {}
    for name, text in blocks("python"):
        exec(compile(text, name, "exec"), namespace)
    assert Path("runs/first/policy").exists()
    assert namespace["logp"].grad is not None


def test_the_commands_of_the_readme_are_real():
    makefile = (ROOT / "Makefile").read_text()
    said = [line.partition("#")[0].strip() for _, text in blocks("sh") for line in text.splitlines()]
    for line in filter(None, said):
        program, *words = line.split()
        if program == "make":
            assert re.search(rf"^{words[0]}:", makefile, re.M), line
        elif program == "papermill":
            assert (ROOT / words[0]).exists(), line
        else:
            assert words[:2] == ["-m", "dgpo"], line
    from dgpo import __main__ as cli
    from dgpo import config as configs

    for line in said:
        if "-m dgpo train" in line:
            recipe, overrides = cli.parse(line.split()[4:], configs.Config.texts())
            assert configs.load(recipe, **overrides).method == "cispo"


def test_the_page_of_settings_is_that_of_the_code():
    """Write it anew with: python docs/site/pages.py"""
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs/site/pages.py")], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (ROOT / "docs/settings.md").read_text() == made.stdout


def test_the_explorable_is_that_of_the_code_and_needs_nothing_else():
    """Write it anew with: python docs/site/explorable.py > docs/explorable/index.html"""
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs/site/explorable.py")], capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert (ROOT / "docs/explorable/index.html").read_text() == made.stdout
    assert len(gzip.compress(made.stdout.encode())) <= 500_000
    assert not re.search(r"https?://|\bimport\b.*\bfrom\b|<link\b|\bsrc=", made.stdout)


def test_the_slides_are_those_of_the_code_and_need_nothing_else(tmp_path):
    """Write them anew with: make slides. Here reveal.js is what the committed file has of it."""
    deck = (ROOT / "docs/slides/index.html").read_text("utf-8")
    parts = {"dist/reveal.css": "reveal.css", "dist/reveal.js": "reveal.js", "plugin/notes/notes.js": "notes.js"}
    with tarfile.open(tmp_path / "reveal.tgz", "w:gz") as package:
        for path, name in parts.items():
            content = re.search(rf'<(\w+) id="{re.escape(name)}">(.*?)</\1>', deck, re.S)[2].encode()
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size = len(content)
            package.addfile(entry, io.BytesIO(content))
    made = subprocess.run(
        [sys.executable, str(ROOT / "docs/site/slides.py"), str(tmp_path / "reveal.tgz")],
        capture_output=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert deck == made.stdout.decode()
    assert len(gzip.compress(made.stdout)) <= 700_000
    assert not re.search(r'<link\b|\bsrc="(?!data:)', deck.partition('<script id="reveal.js">')[0])


def test_every_slide_has_notes_that_pace_it():
    slides = (ROOT / "docs/slides/talk.md").read_text("utf-8").split("\n---\n")
    times = [re.search(r"^Notes: (\d+):(\d\d) to (\d+):(\d\d)\.", slide, re.M).groups() for slide in slides]
    seconds = [(60 * int(a) + int(b), 60 * int(c) + int(d)) for a, b, c, d in times]
    assert [start for start, _ in seconds] == [0, *(end for _, end in seconds[:-1])]
    assert seconds[-1][1] == 20 * 60
    assert all("Source: " in slide for slide in slides)


def test_the_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 900
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / link).exists(), link
