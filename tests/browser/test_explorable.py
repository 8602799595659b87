"""The page without a kernel, from file:// in headless Chromium: its numbers are Python's, and all of it works."""

import math
import statistics
from pathlib import Path

import contrast
import numpy as np
import pytest

from analysis import bandit, estimator, flow, phase
from analysis.landscape import weigh
from dgpo import methods

PAGE = (Path(__file__).parents[2] / "docs" / "explorable" / "index.html").as_uri()
OPEN = "guess=999999"
OWN = {  # parameters beside the defaults
    "grpo": {"dual_clip": 3.0},
    "dgpo": {"n": 2.5, "m": math.inf, "eps_low": 0.1, "eps_high": 0.28},
    "ce_gppo": {"beta_low": 0.5, "beta_high": 1.3, "dual_clip": 4.0},
    "aspo": {"dual_clip": 2.0},
    "gppo": {"dual_clip": None},
    "dppo": {"divergence": "kl", "delta": 0.05},
    "dispo": {"eps_low_pos": 0.1, "eps_high_pos": 2.0, "eps_low_neg": 0.5, "eps_high_neg": 1.0},
}
KEYS = [
    key
    for key, method in ((key, methods.get_class(key)) for key in methods.names())
    if method.__module__.startswith("dgpo.") and method.has_curve()
]


@pytest.fixture
def page(browser):
    """Opens the page at a state; fails if the console said anything."""

    def at(state=OPEN, width=1280, scheme="light"):
        theme = [{"name": "prefers-color-scheme", "value": scheme}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": theme})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get("about:blank")
        browser.get(f"{PAGE}#{state}")
        settle(browser)
        return browser

    browser.get_log("browser")
    yield at
    assert browser.get_log("browser") == []


def settle(browser):
    """Until two frames have passed: a change is drawn in the next one."""
    browser.execute_async_script("const done = arguments[0]; requestAnimationFrame(() => requestAnimationFrame(done))")


def ask(browser, script, *arguments):
    return browser.execute_script(f"const x = window.explorable; {script}", *arguments)


def look(browser, act):
    """Scroll an act's figure into view, wait, and return its drawing's markup."""
    browser.execute_script(f"document.querySelector('#act-{act} .controls').scrollIntoView({{block: 'end'}})")
    settle(browser)
    settle(browser)
    return browser.execute_script(f"return document.querySelector('#act-{act} .picture').innerHTML")


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("pi_old", [0.05, 0.6])
def test_every_curve_is_the_weight_that_trains(page, key, pi_old):
    log_r = np.linspace(math.log(1e-3), math.log(1 / pi_old) - 1e-6, 200)
    script = """const given = arguments[1].map(([k, v]) => [k, v === "inf" ? Infinity : v]);
    const m = x.make(arguments[0], Object.fromEntries(given));
    return arguments[2].map((A) => arguments[3].map((d) => x.weigh(m, d, A, arguments[4])))"""
    for params in ({}, OWN.get(key, {})):
        given = [[k, "inf" if v == math.inf else v] for k, v in params.items()]
        signs = [1.0, -1.0, 0.4]
        found = ask(page(), script, key, given, signs, log_r.tolist(), pi_old)
        expected = [weigh(methods.get(key, **params), log_r, A, pi_old) for A in signs]
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("flip", [0.0, 0.25])
def test_the_bandit_walks_the_trajectory_of_python(page, flip):
    keys, seeds, steps = ["grpo", "cispo", "dgpo", "pg", "sapo", "gmpo"], 3, 40
    script = """const run = x.learn(arguments[0].map((k) => x.make(k)), {flip: arguments[3]}, arguments[1], 11);
    for (let i = 0; i < arguments[2]; i++) run.step();
    return run.history.map((rows) => rows.map((row) => row.map((r) => [r.regret, r.entropy, r.right])))"""
    found = np.array(ask(page(), script, keys, seeds, steps, flip))[:, :steps]
    world = bandit.Setting(groups=4, minibatches=16, flip=flip)
    runs = bandit.run(keys, world, seeds=seeds, steps=steps, points=steps, seed=11)
    for i, metric in enumerate(("regret", "entropy", "p_best")):
        np.testing.assert_allclose(found[..., i], runs.data[metric][:, 0].transpose(0, 2, 1), rtol=0, atol=1e-9)


@pytest.mark.parametrize("length", [1, 4])
def test_with_one_update_a_batch_all_methods_learn_alike(page, length):
    """Every ratio is 1 then, and no clip acts: of a token or of a sequence."""
    script = """const setting = {minibatches: 1, length: arguments[1], arms: 8, pBest: 0.5, lr: 0.5};
    const run = x.learn(arguments[0].map((k) => x.make(k)), setting, 2, 5);
    for (let i = 0; i < 20; i++) run.step();
    return run.history.map((rows) => rows.map((row) => row.map((r) => [r.regret, r.entropy, r.right])))"""
    found = np.array(ask(page(), script, KEYS, length))
    np.testing.assert_allclose(found, np.broadcast_to(found[:1], found.shape), rtol=0, atol=1e-12)
    assert found[0, -1, :, 2].mean() > found[0, 0, :, 2].mean()


def test_a_sequence_policy_parts_token_and_sequence_ratios(page):
    script = """const setting = {length: 4, arms: 8, pBest: 0.5};
    const run = x.learn(["grpo", "gspo", "gmpo"].map((k) => x.make(k)), setting, 1, 5);
    for (let i = 0; i < 5; i++) run.step();
    return run.history.map((rows) => rows.at(-1)[0].right)"""
    grpo, gspo, gmpo = ask(page(), script)
    assert len({grpo, gspo, gmpo}) == 3
    assert all(0 < x <= 1 for x in (grpo, gspo, gmpo))


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_a_pushed_token_moves_as_in_python(page, advantage):
    for key in ("dgpo", "cispo", "grpo"):
        script = "return x.ascent(x.make(arguments[0]), {steps: 200, lr: 0.3, piOld: 0.04, A: arguments[1]})[0]"
        path = np.array(ask(page(), script, key, advantage))
        frame = flow.ascent(key, 200, 0.3, 0.04, advantage)
        at = (frame["time"] / 0.3).round().astype(int)
        np.testing.assert_allclose(path[at], frame["log_pi"], rtol=0, atol=1e-9)


def test_fresh_batches_make_the_methods_alike(page):
    script = """const setting = {steps: 60, lr: 0.05, piOld: 0.04, refresh: 1};
    return ["dgpo", "cispo"].map((k) => x.ascent(x.make(k), setting)[0].at(-1))"""
    dgpo, cispo = ask(page(), script)
    assert dgpo == pytest.approx(cispo, abs=1e-12)


def test_the_moments_are_those_of_the_estimator(page):
    family = phase.Family(3, 16)
    moved = family.moved(0.3)
    for key in ("pg", "grpo", "dgpo", "ce_gppo"):
        expected = estimator.exact(key, family.logits, moved, family.advantage)
        for i in range(3):
            rows = (a[i].tolist() for a in (family.logits, moved, family.advantage))
            found = ask(page(), "return x.moments(x.make(arguments[0]), ...[...arguments].slice(1))", key, *rows)
            assert found["bias"] == pytest.approx(expected.bias[i], rel=1e-9, abs=1e-12)
            assert found["variance"] == pytest.approx(expected.variance[i], rel=1e-9)


def test_what_is_drawn_says_what_python_says(page):
    """The lane of DGPO in act 2 prints its gate."""
    browser = page(f"{OPEN}&r=0.5&n=2&show=dgpo")
    gate = float(weigh(methods.get("dgpo", n=2.0), math.log(0.5), -1.0, 0.05)) / 0.5
    assert f">{gate:.2g}<" in look(browser, 2)


@pytest.mark.parametrize("width", [375, 1280, 2560])
def test_six_acts_at_every_width(page, width):
    browser = page(width=width)
    for act in range(1, 7):
        assert len(look(browser, act)) > 500, act
        rect = f"const b = document.querySelector('#act-{act} svg').getBoundingClientRect();"
        left, right, height = browser.execute_script(f"{rect} return [b.left, b.right, b.height]")
        assert 0 <= left < right <= width, act
        assert height > 150, act
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_stands_out_from_its_paper_in_either_theme(page, scheme):
    browser = page("show=" + ",".join(KEYS), scheme=scheme)
    for opened in (False, True):
        if opened:
            browser.execute_script("document.querySelector('#everything').click()")
        for act in range(1, 7):
            look(browser, act)
        assert contrast.pale(browser) == []
    paper = "return getComputedStyle(document.body).backgroundColor"
    before = browser.execute_script(paper)
    assert before == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}[scheme]
    browser.execute_script("document.querySelector('#theme').click()")
    assert browser.execute_script(paper) != before
    assert contrast.pale(browser) == []


def test_every_slider_moves_its_figure_by_key(page):
    from selenium.webdriver.common.keys import Keys

    browser, took = page(f"{OPEN}&show=dgpo,ce_gppo,gppo,cispo_cap,grpo"), []
    for act in range(1, 6):
        sign = {"m": "1", "cap": "1"}  # what moves good tokens alone
        for name in browser.execute_script(
            f"return [...document.querySelectorAll('#act-{act} input[type=range]')].map((e) => e.id.slice(6))"
        ):
            ask(browser, "x.set({s: arguments[0], r: 2})", sign.get(name, "-1"))
            before, value = look(browser, act), ask(browser, f"return x.state.{name}")
            browser.execute_script(f"document.querySelector('#range-{name}').focus()")
            start = ask(browser, "return performance.now()")
            browser.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
            settle(browser)
            took.append(ask(browser, "return performance.now()") - start)
            assert ask(browser, f"return x.state.{name}") > value, name
            assert look(browser, act) != before, name
            assert f"{name}=" in ask(browser, "return x.link()") or ask(
                browser, f"return x.state.{name} === x.FIELDS.{name}.value"
            )
    print(f"a key press and two frames: median {statistics.median(took):.0f} ms, slowest {max(took):.0f} ms")


@pytest.mark.parametrize(("act", "key"), [(2, "r"), (4, "N")])
def test_the_line_in_a_figure_follows_the_pointer(page, act, key):
    from selenium.webdriver import ActionChains

    browser = page()
    look(browser, act)
    figure = browser.find_element("css selector", f"#act-{act} svg")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    settle(browser)
    seen = []
    for share in (-0.3, -0.2):  # of the width, from the middle
        drag = ActionChains(browser).move_to_element_with_offset(figure, int(share * figure.size["width"]), -60)
        drag.click_and_hold().move_by_offset(10, 0).release().perform()
        seen.append(ask(browser, f"return x.state.{key}"))
        figure = browser.find_element("css selector", f"#act-{act} svg")
    assert ask(browser, f"return x.FIELDS.{key}.min") <= seen[0] < seen[1] <= ask(browser, f"return x.FIELDS.{key}.max")


def test_what_plays_comes_to_its_end(page):
    browser = page(f"{OPEN}&show=dgpo,grpo")
    for act, end in ((2, "At r = 0.02,"), (3, "After 200 updates")):
        look(browser, act)
        browser.execute_script(f"document.querySelector('#act-{act} .play').click()")
        for _ in range(1200):
            settle(browser)
            if browser.execute_script(f"return document.querySelector('#act-{act} .play').textContent.startsWith('▶')"):
                break
        settle(browser)
        says = browser.execute_script(f"return document.querySelector('#act-{act} figcaption').textContent")
        assert says.startswith(end)


def test_every_choice_and_every_chip_is_one_of_the_state(page):
    browser = page()
    for act in range(1, 6):
        look(browser, act)
        radios = browser.execute_script(f"return [...document.querySelectorAll('#act-{act} input[type=radio]')]")
        for radio in radios:
            browser.execute_script("arguments[0].click()", radio)
            settle(browser)
            name, value = radio.get_attribute("name"), radio.get_attribute("value")
            assert ask(browser, f"return x.state.{name}") == value
            assert browser.execute_script(f"return document.querySelector('#act-{act} .problem').hidden"), (name, value)
    chosen = "return x.state.show.split(',').filter(Boolean)"
    for key in KEYS:
        before = set(ask(browser, chosen))
        browser.execute_script(f"document.querySelector('.chip input[value={key}]').click()")
        assert set(ask(browser, chosen)) ^ before == {key}


def test_presets_reset_and_a_link_that_holds_the_state(page):
    browser = page()
    start = ask(browser, "return {...x.state}")
    for name, preset in ask(browser, "return Object.entries(x.PRESETS)"):
        press = "[...document.querySelectorAll('.preset')].find((b) => b.textContent === arguments[0]).click()"
        browser.execute_script(press, name)
        assert {k: v for k, v in ask(browser, "return {...x.state}").items() if k in preset} == preset
        address, seen = ask(browser, "return x.link()"), look(browser, 2)
        again = page(address.partition("#")[2])
        assert ask(again, "return {...x.state}") == {**start, **preset}
        assert look(again, 2) == seen
        browser.execute_script("document.querySelector('#reset').click()")
        assert ask(browser, "return {...x.state}") == start
    assert ask(browser, "return x.link()").endswith(f"#{OPEN}")


def test_the_contents_lead_to_an_act_and_leave_the_dials(page):
    browser = page(f"{OPEN}&n=3")
    for act in (4, 2):
        browser.execute_script(f"document.querySelector('.contents a[href=\"#act-{act}\"]').click()")
        settle(browser)
        assert browser.execute_script(f"return document.activeElement === document.querySelector('#title-{act}')")
        assert (
            abs(browser.execute_script(f"return document.querySelector('#act-{act}').getBoundingClientRect().top")) < 2
        )
    assert ask(browser, "return x.state.n") == 3


def test_a_figure_opens_once_the_reader_has_predicted(page):
    browser = page("")
    closed = "return document.querySelectorAll('figure.veiled').length"
    assert browser.execute_script(closed) == 6
    assert not browser.find_element("css selector", "#act-6 .after").is_displayed(), "the text tells the answer"
    for act in range(1, 7):
        assert browser.execute_script(f"return document.querySelector('#act-{act} .body').inert")
        browser.execute_script(f"document.querySelector('#act-{act} .answer').click()")
        assert not browser.execute_script(f"return document.querySelector('#act-{act} .body').inert")
        verdict = browser.execute_script(f"return document.querySelector('#act-{act} .verdict').textContent")
        assert verdict.startswith(("Yes.", "Not quite."))
        assert len(verdict) > 60
    assert browser.execute_script(closed) == 0
    assert browser.find_element("css selector", "#act-6 .after").is_displayed()


@pytest.mark.parametrize(
    ("state", "act", "says"),
    [
        ("pi=1.5", 2, "π_old = 1.5: a probability strictly between 0 and 1"),
        ("n=0", 2, "n = 0 must be a number in (0, ∞]"),
        ("n=abc", 3, "n = NaN must be"),
        ("el=1", 4, "eps_low = 1 must be a number in (0, 1)"),
        ("c=1.1", 5, "dual_clip = 1.1 must be above 1 + ε_high"),
        ("show=", 2, "No method is chosen"),
        ("p=0", 1, "π = 0: a probability"),
        ("lr=-1", 3, "learning rate = -1"),
        ("d=99", 4, "distance = 99"),
        ("seed=1.5", 5, "seed = 1.5: a whole number"),
    ],
)
def test_bad_input_is_named_in_the_figures_place(page, state, act, says):
    browser = page(f"{OPEN}&{state}")
    look(browser, act)
    problem = f"document.querySelector('#act-{act} .problem')"
    assert says in browser.execute_script(f"return {problem}.textContent")
    assert browser.execute_script(f"return document.querySelector('#act-{act} .picture').hidden")
    browser.execute_script(f"{problem}.querySelector('button').click()")
    assert len(look(browser, act)) > 500
    assert browser.execute_script(f"return {problem}.hidden")


def test_a_typed_value_beyond_the_slider_is_taken(page):
    browser = page()
    browser.execute_script(
        "const b = document.querySelector('#box-n'); b.value = 'inf'; b.dispatchEvent(new Event('change'))"
    )
    assert ask(browser, "return x.state.n === Infinity")
    assert "n=inf" in ask(browser, "return x.link()")
    assert "n=inf" in browser.current_url
    assert len(look(browser, 2)) > 500


def test_a_weight_that_is_nan_names_its_method(page):
    script = "try { x.weigh({...x.make('pg'), weight: () => NaN}, 0, 1, 0.05) } catch (e) { return e.message }"
    assert ask(page(), script).startswith("PG (unclipped): the weight is NaN at r = 1")


def test_a_policy_learns_step_by_step(page):
    browser = page()
    look(browser, 5)
    buttons = "const [play, one, next] = document.querySelectorAll('#act-5 .row button');"
    says = "return document.querySelector('#act-5 figcaption').textContent"
    browser.execute_script(f"{buttons} next.click()")
    assert ask(browser, "return x.state.seed") == 1
    for _ in range(600):
        settle(browser)
        if browser.execute_script(says).startswith("After 150 batches"):
            break
    browser.execute_script(f"{buttons} one.click()")
    settle(browser)
    assert browser.execute_script(says).startswith("After 1 batch ")


def test_the_answer_of_act_5_holds():
    equal = {"eps_low": 0.2, "eps_high": 0.2, "dual_clip": 10.0}
    keys = ("grpo", "cispo", "dgpo", "pg")
    chosen = [
        methods.get(k, **{p: v for p, v in equal.items() if p in methods.get(k).params() and k != "grpo"}) for k in keys
    ]
    world = bandit.Setting(groups=4, minibatches=16, flip=0.25)
    runs = bandit.run(chosen, world, seeds=200, steps=150, points=2)
    grpo, cispo, dgpo, pg = (runs.data["p_best"][:, 0, :, -1] > 0.5).mean(-1)
    assert pg < min(cispo, dgpo) <= max(cispo, dgpo) < grpo
    assert abs(cispo - dgpo) < 0.1
