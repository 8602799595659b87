"""The explorer in a real JupyterLab, in headless Chromium: numbers as in Python, dials that work, latency.

Needs anywidget, and what conftest.py says. Screenshots are left in the folder $DGPO_SCREENSHOTS.
"""

import os
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import contrast
import nbformat
import numpy as np
import pytest
from running import SMALL, run

from analysis import run_words, runs
from analysis.explorable import bundle
from analysis.landscape import weigh
from dgpo import methods

CELLS = [
    """import time
import dgpo
from analysis.explorer import Explorer

@dgpo.register("mine")
class Mine(dgpo.Method):
    power: float = 0.5

    def weight(self, logp, old_logp, advantage, mask=None):
        return (self.power * (logp - old_logp) - 0.1 * advantage).exp()

@dgpo.register("broken one")
class Broken(dgpo.Method):
    def weight(self, logp, old_logp, advantage, mask=None):
        return logp * float("nan")
""",
    """explorer = Explorer(run="RUN", state="show=mine,dgpo")
explorer.observe(lambda change: open("state.txt", "w").write(change["new"]), "state")
explorer""",
    'Explorer(run="SILENT", state="view=run")',
    """import pathlib
from analysis import live, runs
made, grows = pathlib.Path("RUN"), pathlib.Path("growing")
grows.mkdir()
live.watch(runs.read(made).config.model_copy(update={"run_dir": str(grows)}))
rows = (made / "metrics.jsonl").read_text().splitlines(keepends=True)
for count in (2, len(rows)):
    (grows / "metrics.jsonl").write_text("".join(rows[:count]))
    time.sleep(5)
""",
]
WATCH = """window.drawn = window.pressed = undefined;
root.addEventListener("keydown", () => (window.pressed = performance.now()), {once: true, capture: true});
new MutationObserver((_, watch) => {
    watch.disconnect();
    window.drawn = performance.now();
}).observe(root.querySelector("[data-view=weight] .picture"), {childList: true});"""
HOSTS = "[...document.querySelectorAll('.jp-OutputArea-output *')].filter((e) => e.explorable)"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A run with token records, and one without."""
    folder = tmp_path_factory.mktemp("runs")
    return run(SMALL, run_dir=str(folder / "a")), run({**SMALL, "steps": 1}, run_dir=str(folder / "b"), token_records=0)


@pytest.fixture(scope="module")
def lab(tmp_path_factory, folders):
    """The folder of a JupyterLab of its own, and the address of a notebook there."""
    folder = tmp_path_factory.mktemp("lab")
    sources = [cell.replace("RUN", str(folders[0])).replace("SILENT", str(folders[1])) for cell in CELLS]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    book.metadata.kernelspec = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(book, folder / "book.ipynb")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    options = ["--no-browser", "--allow-root", "--expose-app-in-browser", "--IdentityProvider.token=", f"--port={port}"]
    places = {f"JUPYTER_{k}": str(folder / k.lower()) for k in ("CONFIG_DIR", "RUNTIME_DIR")}
    places |= {"JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"), "JUPYTERLAB_WORKSPACES_DIR": str(folder / "spaces")}
    command = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={folder}"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=os.environ | places, stdout=log, stderr=log)
    try:
        for _ in range(120):
            with socket.socket() as s:
                if not s.connect_ex(("127.0.0.1", port)):
                    break
            time.sleep(0.5)
        else:
            pytest.fail(f"JupyterLab did not start: {(folder / 'log').read_text()[-2000:]}")
        yield folder, f"http://127.0.0.1:{port}/lab/tree/book.ipynb?reset"
    finally:
        server.terminate()
        server.wait(20)


def wait_for(browser, script, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := browser.execute_script(f"return {script}"):
            return found
        time.sleep(0.2)
    text = browser.execute_script("return document.body.innerText.slice(-1500)")
    pytest.fail(f"{script} did not become true within {seconds} s; the page ends with: {text}")


@pytest.fixture(scope="module")
def opened(lab, browser):
    """The browser with the notebook run to its end."""
    browser.get(lab[1])
    wait_for(browser, "window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')")
    wait_for(browser, "window.jupyterapp.commands.hasCommand('notebook:run-all-cells')")
    time.sleep(2)  # the notebook's kernel is chosen after its cells are there
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    wait_for(browser, f"{HOSTS}.length === 3")
    return browser


@pytest.fixture
def explorer(opened):
    """Asks the first widget, from its defaults; fails if the console had an error."""
    opened.get_log("browser")
    ask(opened, "x.reset(); host.scrollIntoView({block: 'start'})")  # what is off the screen is not drawn
    settle(opened)
    yield opened
    assert [entry for entry in opened.get_log("browser") if entry["level"] == "SEVERE"] == []


def ask(browser, script, *arguments, widget=0):
    names = f"const host = {HOSTS}[{widget}], x = host.explorable, root = host.shadowRoot;"
    return browser.execute_script(f"{names} {script}", *arguments)


def settle(browser):
    """Until what came into view is drawn, Python has answered, and the answer is drawn."""
    frames = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    browser.execute_async_script(frames)
    for _ in range(1000):
        browser.execute_async_script(frames)
        if not ask(browser, "return x.waiting()"):
            break
        time.sleep(0.02)
    browser.execute_async_script(frames)


def look(browser, view="weight", widget=0):
    settle(browser)
    return ask(browser, f"return root.querySelector('[data-view={view}] .picture').innerHTML", widget=widget)


def says(browser, widget=0, view="weight"):
    ask(browser, "host.scrollIntoView({block: 'start'})", widget=widget)
    settle(browser)
    shown = "const p = root.querySelector(`[data-view=${arguments[0]}] .problem`); return p.hidden ? '' : p.textContent"
    return ask(browser, shown, view, widget=widget)


def picture(browser, name):
    if folder := os.environ.get("DGPO_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{name}.png"))


def test_a_run_is_drawn_while_its_cell_still_runs(opened):
    count = f"{HOSTS}[2].explorable.rows().length"
    wait_for(opened, f"{count} === 1", 30)
    wait_for(opened, f"{count} === {SMALL['steps']}", 30)
    wait_for(opened, "document.body.innerText.includes('Python 3 (ipykernel) | Idle')", 30)
    ask(opened, "host.scrollIntoView({block: 'start'})", widget=2)
    settle(opened)
    says = ask(opened, "return root.querySelector('figcaption').textContent", widget=2)
    assert says.startswith(f"Step {SMALL['steps']} of {SMALL['steps']}: reward ")
    picture(opened, "live")


def test_a_method_of_the_notebook_is_drawn_with_its_own_weight(explorer):
    class Mine(methods.Method):
        power: float = 0.5

        def weight(self, logp, old_logp, advantage, mask=None):
            return (self.power * (logp - old_logp) - 0.1 * advantage).exp()

    for power, r, sign in ((0.5, 0.3, -1), (1.5, 0.04, -1), (-0.4, 3.0, 1)):
        values = {"show": "mine", "r": r, "s": str(sign), "mine.power": power}
        ask(explorer, "x.set(arguments[0])", values)
        settle(explorer)
        method = Mine()
        object.__setattr__(method, "power", power)
        log_r = np.log(np.array([0.01, 0.1, r]))
        expected = weigh(method, log_r, sign, 0.05)
        assert f">{float(f'{expected[2] / r:.2g}'):g}<" in look(explorer)
        # The figure's own log r: Python's may differ in the last bit, and the table holds only the values it requested.
        found = ask(explorer, "return x.weigh(x.method('mine'), Math.log(arguments[0]), arguments[1], 0.05)", r, sign)
        np.testing.assert_allclose(found, expected[2], rtol=1e-12)
    picture(explorer, "own-method")


def test_the_methods_of_the_suite_have_the_weights_of_python(explorer):
    log_r = np.linspace(-5, 2.9, 30)
    for key in bundle.built_in():
        for sign in (-1, 1):
            script = "return arguments[1].map((d) => x.weigh(x.make(arguments[0]), d, arguments[2], 0.05))"
            found = ask(explorer, script, key, log_r.tolist(), sign)
            np.testing.assert_allclose(found, weigh(methods.get(key), log_r, sign, 0.05), rtol=1e-12, atol=1e-300)


def test_every_dial_redraws_the_weights_by_key(explorer):
    from selenium.webdriver.common.keys import Keys

    took = {}
    names = ask(explorer, "return [...root.querySelectorAll('.side input[type=range]')].map((e) => e.id.slice(6))")
    assert {"el", "eh", "n", "m", "beta", "c", "cap", "mine.power"} == set(names)
    ask(explorer, "x.set({show: 'mine,dgpo,ce_gppo,gppo,cispo_cap,grpo', r: 2})")
    for name in names:
        ask(explorer, "x.set({s: arguments[0]})", "1" if name in ("m", "cap") else "-1")
        before, value = look(explorer), ask(explorer, "return x.state[arguments[0]]", name)
        handle = ask(explorer, "return root.getElementById(`range-${arguments[0]}`)", name)
        ask(explorer, WATCH)
        handle.send_keys(Keys.ARROW_RIGHT)
        took[name] = wait_for(explorer, "window.drawn - window.pressed", 30)
        assert ask(explorer, "return x.state[arguments[0]]", name) > value
        assert look(explorer) != before, name
    print({name: f"{ms:.0f} ms" for name, ms in took.items()}, f"median {statistics.median(took.values()):.0f} ms")


def test_presets_reset_and_a_state_that_python_has_too(explorer, lab):
    start = ask(explorer, "return {...x.state}")
    for name, preset in ask(explorer, "return Object.entries(x.PRESETS)"):
        press = "[...root.querySelectorAll('.preset')].find((b) => b.textContent === arguments[0]).click()"
        ask(explorer, press, name)
        seen, state = look(explorer), ask(explorer, "return {...x.state}")
        assert {k: state[k] for k in preset} == preset
        text = ask(explorer, "return x.written()")
        assert f'state="{text}"' in ask(explorer, "return root.querySelector('.state').value")
        for _ in range(1000):
            if (lab[0] / "state.txt").exists() and (lab[0] / "state.txt").read_text() == text:
                break
            time.sleep(0.1)
        else:
            pytest.fail(f"Python never had the state {text}")
        ask(explorer, "root.querySelector('#reset').click()")
        assert ask(explorer, "return {...x.state}") == start
        ask(explorer, "x.load(arguments[0])", text)
        assert look(explorer) == seen


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"pi": 1.5}, "π_old = 1.5: a probability strictly between 0 and 1"),
        ({"n": 0, "show": "dgpo"}, "n = 0 must be a number in (0, ∞]"),
        ({"show": "broken_one"}, "broken one: ValueError: broken one.weight returned NaN"),
        ({"show": ""}, "No method is chosen"),
    ],
)
def test_bad_input_is_named_in_the_figures_place(explorer, state, said):
    ask(explorer, "x.set(arguments[0])", state)
    assert said in says(explorer)
    ask(explorer, "x.reset()")
    assert says(explorer) == ""


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_it_is_dark_where_jupyterlab_is_and_every_word_stands_out(explorer, theme):
    wanted = theme.split()[1].lower()
    change = "window.jupyterapp.commands.execute('apputils:change-theme', {theme: arguments[0]})"
    explorer.execute_script(change, theme)
    wait_for(explorer, f"{HOSTS}[0].dataset.theme === '{wanted}'", 60)
    for view in ("weight", "race", "error", "learn", "run"):
        ask(explorer, "x.set({view: arguments[0]})", view)
        settle(explorer)
        paper = ask(explorer, "return getComputedStyle(root.querySelector('.explorer')).backgroundColor")
        assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[wanted]
        assert contrast.pale(explorer, f"{HOSTS}[0].shadowRoot") == []
        picture(explorer, f"{wanted}-{view}")


def test_a_background_may_be_written_in_any_way(explorer):
    """marimo writes color(srgb 1 1 1)."""
    shades = {"color(srgb 0.1 0.1 0.1)": "dark", "color(srgb 1 1 1)": "light", "oklch(0.2 0 0)": "dark"}
    for colour, wanted in shades.items():
        ask(explorer, "host.parentElement.style.backgroundColor = arguments[0]", colour)
        ask(explorer, "document.body.toggleAttribute('data-looked-at')")  # makes the widget read the theme again
        wait_for(explorer, f"{HOSTS}[0].dataset.theme === '{wanted}'", 30)
    ask(explorer, "host.parentElement.style.backgroundColor = ''; document.body.toggleAttribute('data-looked-at')")


def test_a_run_without_token_records_says_so_in_the_figures_place(explorer):
    assert "has no token records: it ran with token_records=0" in says(explorer, widget=1, view="run")


def test_a_token_that_is_pointed_at_tells_its_word_context_and_numbers(explorer, folders):
    made = runs.read(folders[0])
    records = made.tokens()
    words = run_words.words(made, records["token"])
    ask(explorer, "x.set({view: 'run'})")
    settle(explorer)
    for token in (0, 7):
        ask(explorer, "x.set({tok: arguments[0]})", token)
        script = """const box = root.querySelector('.ring').getBoundingClientRect();
        const at = {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2, bubbles: true};
        root.querySelector('[data-view=run] .picture').dispatchEvent(new PointerEvent('pointerdown', at));
        return [x.state.tok, x.token(x.state.tok)]"""
        chosen, told = ask(explorer, script)
        row = records[
            (records["step"] == told["step"])
            & (records["update"] == told["update"])
            & (records["position"] == told["position"])
            & np.isclose(records["ratio"], told["ratio"], rtol=1e-12, atol=0)
            & np.isclose(records["advantage"], told["advantage"], rtol=1e-12, atol=0)
        ]
        assert chosen >= 0
        assert len(row) >= 1
        for name in ("w_log", "w_prob", "prob"):
            assert np.isclose(row[name], told[name], rtol=1e-12).any()
        expected = [run_words.context(records, one, words) for one in row.itertuples()]
        for _ in range(1000):
            spans = ask(explorer, "return ['.before', '.after'].map((p) => root.querySelector(p).textContent)")
            if spans in expected:
                break
            time.sleep(0.1)
        assert spans in expected
        shown = ask(explorer, "return root.querySelector('.passage mark').textContent")
        assert shown in {words[t] for t in row["token"]}
    picture(explorer, "your-run")


def test_the_arrows_read_on_in_the_answer(explorer):
    from selenium.webdriver.common.keys import Keys

    ask(explorer, "x.set({view: 'run', tok: 3})")
    settle(explorer)
    figure = ask(explorer, "return root.querySelector('[data-view=run] .picture')")
    figure.send_keys(Keys.ARROW_RIGHT)
    assert ask(explorer, "return x.state.tok") == 4
    figure.send_keys(Keys.ESCAPE)
    assert ask(explorer, "return [x.state.tok, root.querySelector('.card').hidden]") == [-1, True]


@pytest.mark.parametrize("view", ["race", "error", "learn"])
def test_the_page_s_other_figures_are_views_too(explorer, view):
    ask(explorer, "x.set({view: arguments[0], show: 'mine,dgpo,grpo'})", view)
    assert len(look(explorer, view)) > 500
    assert "mine" in ask(explorer, "return root.querySelector('.apart').textContent")
    picture(explorer, view)
