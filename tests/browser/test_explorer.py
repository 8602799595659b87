"""The explorer in a real JupyterLab, in headless Chromium: a moved slider redraws its picture; latency is printed.

Needs ipywidgets, and what conftest.py says. A screenshot is left at $DGPO_SCREENSHOT.
"""

import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "05_explorer.ipynb"
MOVES = 12
LOST = 5000  # ms after which a key press counts as lost

# Press a key on a slider's handle; resolve with the milliseconds until the picture is another one, and decoded, or with
# LOST where none comes.
MOVE = """
const [handle, key, picture, lost, done] = arguments;
const image = document.querySelector('img.explorer-' + picture);
const before = image.src, start = performance.now();
const seen = new MutationObserver(() => {
  if (image.src === before) return;
  seen.disconnect();
  image.decode().then(() => done(performance.now() - start));
});
seen.observe(image, {attributes: true});
setTimeout(() => { seen.disconnect(); done(lost); }, lost);
handle.focus();
const options = {key, code: key, keyCode: key === 'ArrowRight' ? 39 : 37, bubbles: true};
handle.dispatchEvent(new KeyboardEvent('keydown', options));
handle.dispatchEvent(new KeyboardEvent('keyup', options));
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab of its own that serves a copy of the notebook."""
    pytest.importorskip("ipywidgets")
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(NOTEBOOK, folder)
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
        yield f"http://127.0.0.1:{port}/lab/tree/{NOTEBOOK.name}?reset"
    finally:
        server.terminate()
        server.wait(20)


def wait_for(browser, script, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := browser.execute_script(f"return {script}"):
            return found
        time.sleep(0.3)
    text = browser.execute_script("return document.body.innerText.slice(-1500)")
    pytest.fail(f"{script} did not become true within {seconds} s; the page ends with: {text}")


@pytest.mark.parametrize(
    (
        "dial",
        "picture",
    ),  # the landscape starts at A < 0, where m moves nothing; the bandit is drawn after the landscape
    [("n", "landscape"), ("n", "live"), ("m", "live"), ("eps_low", "live"), ("pi_old", "landscape")],
)
def test_a_moved_slider_redraws_in_time(lab, browser, dial, picture):
    if not browser.current_url.startswith("http"):
        browser.get(lab)
        wait_for(browser, "window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')")
        # Only what is on the screen is in the page otherwise.
        wait_for(browser, "window.jupyterapp.commands.hasCommand('notebook:run-all-cells')")
        time.sleep(2)  # the notebook's kernel is chosen after its cells are there
        browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    handle = f"document.querySelector('.explorer-dial-{dial} .noUi-handle')"
    wait_for(browser, f"{handle} && document.querySelector('img.explorer-landscape')")
    browser.execute_script("document.querySelector('img.explorer-landscape').scrollIntoView({block: 'start'})")
    element = browser.execute_script(f"return {handle}")

    def move(i):
        time.sleep(0.4)
        key = "ArrowRight" if i % 4 < 2 else "ArrowLeft"
        return browser.execute_async_script(MOVE, element, key, picture, LOST)

    # A slider is on the page some time before it listens: wait for the first move that arrives.
    assert any(move(0) < LOST for _ in range(5)), f"no key press on {dial} redraws the {picture}"
    took = [move(i) for i in range(2, 2 + MOVES)]
    if path := os.environ.get("DGPO_SCREENSHOT"):
        browser.save_screenshot(path)
    print(f"{dial}, {picture}: median {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms of {MOVES} moves")
    assert max(took) < LOST, took
