"""Contrast of the words of a page, as WCAG 2.2 defines it (1.4.3), computed where they are drawn."""

LEAST = 4.5
# Words inside an inert part are not asked for: a figure that waits for a prediction is pale on purpose.
_SCRIPT = """
const rgba = (text) => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return [r, g, b, a]; };
const over = ([r, g, b, a], under) => [r, g, b].map((x, i) => a * x + (1 - a) * under[i]);
const light = (rgb) => rgb.map((x) => (x /= 255) <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
  .reduce((sum, x, i) => sum + x * [0.2126, 0.7152, 0.0722][i], 0);
const up = (e) => e.parentElement ?? e.getRootNode().host;
function chain(element) { const all = []; for (let e = element; e; e = up(e)) all.push(e); return all; }
function ratio(element) {
  const all = chain(element), looks = all.map((e) => getComputedStyle(e));
  const paper = looks.reverse().reduce((under, s) => over(rgba(s.backgroundColor), under), [255, 255, 255]);
  const own = looks.at(-1), [r, g, b, a] = rgba(element.closest("svg") ? own.fill : own.color);
  const opacity = looks.reduce((product, s) => product * s.opacity, a);
  const [dark, bright] = [light(over([r, g, b, opacity], paper)), light(paper)].sort((x, y) => x - y);
  return (bright + 0.05) / (dark + 0.05);
}
const words = [], walk = document.createTreeWalker(ROOT, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
  if (text && element.checkVisibility({visibilityProperty: true}) && !chain(element).some((e) => e.inert)
      && !element.closest("style, script, title")) words.push([text, ratio(element)]);
}
return words;
"""


def words(browser, root: str = "document.body") -> list[tuple[str, float]]:
    """Each visible text below `root`, an expression of JavaScript, with the contrast to what lies behind it."""
    return browser.execute_script(_SCRIPT.replace("ROOT", root))


def pale(browser, root: str = "document.body") -> list[tuple[str, float]]:
    """The texts whose contrast is below `LEAST`."""
    found = words(browser, root)
    assert len(found) > 20
    return [(text, ratio) for text, ratio in found if ratio < LEAST]
