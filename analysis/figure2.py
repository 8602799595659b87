"""The paper's figure 2 as a table of words, beside the words that `analysis.properties` derives from the weights.

`PAPER` is what arXiv 2603.14389 prints; only `compare` reads it. 13 cells for each of its six methods, 78 in all.
"""

import numpy as np
import pandas as pd

from analysis.landscape import key_of, weigh
from analysis.properties import describe
from dgpo import methods as registry

CELLS = (
    *(("LN", x) for x in ("explores", "converges", "continuous")),
    *(("HP", x) for x in ("explores", "converges", "continuous")),
    *(("bias", x) for x in ("IN", "LN", "HP", "LP", "HN")),
    *(("lagging", x) for x in ("LP", "HN")),
)
PAPER = {
    "grpo": "no yes no  no yes no  unbiased large large unbiased unbiased  normal normal",
    "cispo": "yes no yes  yes yes yes  unbiased small moderate biased biased  large small",
    "gppo": "yes no yes  yes yes yes  unbiased small moderate unbiased unbiased  normal normal",
    "ce_gppo": "yes no no  yes yes yes  unbiased moderate moderate unbiased unbiased  normal normal",
    "aspo": "no yes no  no yes no  biased large large biased biased  large small",
    "dgpo": "yes yes yes  yes yes yes  unbiased small small unbiased unbiased  normal normal",
}
_WORDS = ("small", "moderate", "large")


def words(properties) -> dict:
    """The 13 cells of one `Properties`: {(group, property): word}."""
    found = {}
    for group, name in CELLS:
        part = getattr(properties, group)
        value = part[name] if isinstance(part, dict) else getattr(part, name)
        found[group, name] = value if isinstance(value, str) else "yes" if value else "no"
    return found


def table(methods=registry.PAPER, pi_old: float = 0.05) -> pd.DataFrame:
    """A row per method, a column per cell, each a word derived from the weight alone."""
    found = [describe(m, pi_old) for m in methods]
    index = [key_of(registry.get(m) if isinstance(m, str) else m) for m in methods]
    return pd.DataFrame([words(p) for p in found], index=index, columns=pd.MultiIndex.from_tuples(CELLS))


def compare(pi_old: float = 0.05) -> pd.DataFrame:
    """The cells whose derived word is not the paper's: method, cell, paper, derived, measured (nan for yes and no)."""
    rows = []
    for key, line in PAPER.items():
        properties = describe(key, pi_old)
        for ((group, name), derived), paper in zip(words(properties).items(), line.split(), strict=True):
            if derived != paper:
                measured = properties.measured.get(group, {}).get(name, float("nan"))
                rows.append((key, f"{group} {name}", paper, derived, measured))
    return pd.DataFrame(rows, columns=["method", "cell", "paper", "derived", "measured"])


def windows(
    left=(0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95), right=(1.1, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0, 4.0, 5.0), pi_old=0.05
) -> pd.DataFrame:
    """How many of the 78 cells any two cuts reproduce, by the windows on LN (rows) and HP (columns).

    It shows how much the words of a boundary bias owe to the windows and cuts that `analysis.properties` fitted.
    """
    place = {"LN": CELLS.index(("bias", "LN")), "HP": CELLS.index(("bias", "HP"))}
    paper = {side: [_WORDS.index(line.split()[i]) for line in PAPER.values()] for side, i in place.items()}
    width = max(len(left), len(right))
    pairs = zip(np.resize(left, width), np.resize(right, width), strict=True)
    sizes: dict = {}
    for a, b in pairs:
        found = [describe(key, pi_old, (a, b)).measured["bias"] for key in PAPER]
        sizes |= {("LN", a): [f["LN"] for f in found], ("HP", b): [f["HP"] for f in found]}
    others = len(CELLS) * len(PAPER) - 2 * len(PAPER)
    table = [[others + _most(sizes["LN", a] + sizes["HP", b], paper["LN"] + paper["HP"]) for b in right] for a in left]
    return pd.DataFrame(table, index=pd.Index(left, name="LN down to"), columns=pd.Index(right, name="HP up to"))


def _most(sizes, words) -> int:
    """The most of the words (0, 1, 2) that two cuts through the sizes give."""
    cuts = [*sizes, np.inf]
    return max(sum((x >= a) + (x >= b) == w for x, w in zip(sizes, words, strict=True)) for a in cuts for b in cuts)


def aspo_drawing(ratios=(0.1, 0.2, 0.4, 0.7, 1.5, 2.0, 3.0, 5.0, 8.0)) -> pd.DataFrame:
    """The gate of ASPO's code beside the gate as drawn, in LP and HN, where the paper draws ASPO with CISPO's curve."""
    ratio = np.asarray(ratios)
    advantage = np.where(ratio < 1, 1.0, -1.0)
    code, drawn = (weigh(registry.get(m), np.log(ratio), advantage, 0.05) / ratio for m in ("aspo", "cispo"))
    region = np.where(ratio < 1, "LP", "HN")
    return pd.DataFrame({"region": region, "ratio": ratio, "code": code, "as drawn": drawn})
