"""The talk, from file:// in headless Chromium: every slide fits, every figure draws, and it answers to keys."""

from pathlib import Path

import contrast
import pytest

DECK = (Path(__file__).parents[2] / "docs" / "slides" / "index.html").as_uri()


@pytest.fixture
def deck(browser):
    """The deck at its first slide, 1280 x 720; fails if the console said anything."""
    size = {"width": 1280, "height": 720, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("browser")
    browser.get("about:blank")
    browser.get(DECK)
    wait(browser, "Reveal.isReady()")
    yield browser
    assert browser.get_log("browser") == []


def wait(browser, condition, frames=600):
    step = "const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))"
    for _ in range(frames):
        if browser.execute_script(f"return Boolean({condition})"):
            return
        browser.execute_async_script(step)
    pytest.fail(f"{condition} did not become true")


FRAGMENTS = "Reveal.getCurrentSlide().querySelectorAll('.fragment')"
FIGURE = "Reveal.getCurrentSlide().querySelector('.figure').shadowRoot"


def test_every_slide_fits_and_every_figure_draws(deck):
    count, seen = deck.execute_script("return Reveal.getTotalSlides()"), set()
    assert 20 <= count <= 25
    for i in range(count):
        deck.execute_script("Reveal.slide(arguments[0], 0, 9)", i)
        name = deck.execute_script("return Reveal.getCurrentSlide().querySelector('[data-figure]')?.dataset.figure")
        if name:
            seen.add(name)
            wait(deck, f"{FIGURE}.querySelector('.picture svg')?.getBoundingClientRect().height > 150")
            assert len(deck.execute_script(f"return {FIGURE}.querySelector('.picture').innerHTML")) > 500
            assert deck.execute_script(f"return {FIGURE}.querySelector('.problem').hidden"), name
        boxes = """return [...Reveal.getCurrentSlide().querySelectorAll(':scope > :not(aside), .text > *')].map((e) => {
            const { right, bottom } = e.getBoundingClientRect(); return [right, bottom]})"""
        assert all(right <= 1280 and bottom <= 704 for right, bottom in deck.execute_script(boxes)), i
    assert seen == {"token", "weights", "push", "race", "error", "learn", "collapses", "best"}
    assert deck.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_word_stands_out_from_its_paper(deck, theme):
    deck.execute_script("document.documentElement.dataset.theme = arguments[0]", theme)
    for i in range(deck.execute_script("return Reveal.getTotalSlides()")):
        deck.execute_script("Reveal.slide(arguments[0], 0, 9)", i)
        wait(deck, f"[...{FRAGMENTS}].every((e) => getComputedStyle(e).opacity == 1)")
        found = contrast.words(deck, "Reveal.getCurrentSlide()")
        if deck.execute_script("return Boolean(Reveal.getCurrentSlide().querySelector('[data-figure]'))"):
            wait(deck, f"{FIGURE}.querySelector('.picture svg')")
            found += contrast.words(deck, FIGURE)
        assert [one for one in found if one[1] < contrast.LEAST] == [], i
        assert len(found) >= 3


def test_a_figure_that_comes_again_has_the_dials_of_its_slide(deck):
    places = """return Reveal.getSlides().flatMap((slide, i) => {
        const place = slide.querySelector('[data-figure=weights]'); return place ? [[i, place.dataset.dials]] : []})"""
    found = deck.execute_script(places)
    assert [dials[:3] for _, dials in found] == ["s=-", "s=1"]
    for i, dials in (*found, found[0]):
        deck.execute_script("Reveal.slide(arguments[0])", i)
        wanted = dict(pair.split("=") for pair in dials.split("&"))
        state = deck.execute_script("return talk.state")
        assert {key: str(state[key]) for key in wanted} == wanted
        wait(deck, f"{FIGURE}.querySelector('.picture svg')")
    shown = deck.execute_script(f"return [...{FIGURE}.querySelectorAll('.controls > :not([hidden])')].map((e) => e.id)")
    assert len(shown) == 2  # the button, and the dial that the slide keeps


def test_keys_move_a_slider_or_the_slides_and_change_the_theme(deck):
    from selenium.webdriver.common.keys import Keys

    at = "return Reveal.getIndices().h"
    slide = deck.execute_script("return Reveal.getSlides().findIndex((s) => s.querySelector('[data-figure=error]'))")
    deck.execute_script("Reveal.slide(arguments[0])", slide)
    wait(deck, f"{FIGURE}.querySelector('#range-N')")
    before = deck.execute_script("return talk.state.N")
    deck.execute_script(f"return {FIGURE}.querySelector('#range-N')").send_keys(Keys.ARROW_RIGHT)
    assert deck.execute_script("return talk.state.N") > before
    assert deck.execute_script(at) == slide
    body = deck.find_element("css selector", "body")
    deck.execute_script("document.activeElement.blur()")
    body.send_keys(Keys.ARROW_RIGHT)
    assert deck.execute_script(at) == slide + 1
    paper = "return getComputedStyle(document.querySelector('.reveal')).backgroundColor"
    light = deck.execute_script(paper)
    body.send_keys("t")
    assert deck.execute_script(paper) != light
