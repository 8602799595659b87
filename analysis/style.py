"""The look of every figure of the suite: one colour and line style for each method, no top and right spines.

The paper's six methods have the colours of Okabe and Ito (2008), their neighbours those of Tol (2021); dashes keep
them apart in grey-scale and for colour-blind readers. No eye can tell more than these fifteen apart: any other method
has the colour of the method that it varies, `VARIANT_OF`, with its own dash and label.
"""

import zlib
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

COLOURS = {
    "dgpo": "#D55E00",
    "grpo": "#000000",
    "cispo": "#0072B2",
    "gppo": "#56B4E9",
    "ce_gppo": "#009E73",
    "aspo": "#CC79A7",
    "pg": "#888888",
    "reinforce": "#BBBBBB",
    "cispo_cap": "#332288",
    "sapo": "#E69F00",
    "maspo": "#999933",
    "dppo": "#882255",
    "drpo": "#44AA99",
    "gspo": "#661100",
    "gmpo": "#DDCC77",
}
DASHES = {
    "dgpo": "-",
    "grpo": (0, (5, 1.5)),
    "cispo": (0, (1, 1)),
    "gppo": (0, (3, 1, 1, 1)),
    "ce_gppo": (0, (7, 2)),
    "aspo": (0, (3, 1, 1, 1, 1, 1)),
    "pg": (0, (2, 2)),
    "reinforce": (0, (1, 3)),
    "dispo": (0, (9, 1.5)),
    "icepop": (0, (9, 1.5)),
    "ipo": (0, (9, 1.5)),
    "kpop": (0, (1.5, 1.5)),
    "ripo": (0, (9, 1.5)),
    "dcpo": (0, (1.5, 1.5)),
    "luspo": (0, (9, 1.5)),
    "vespo": (0, (1.5, 1.5)),
    "opsm": (0, (5, 1, 1, 1, 1, 1)),
    "aspo_entropy": (0, (9, 1.5)),
    "erc": (0, (1.5, 1.5)),
    "top_entropy": (0, (3, 1, 1, 1)),
    "bapo": (0, (9, 1.5)),
    "clip_cov": (0, (5, 1, 1, 1, 1, 1)),
    "kl_cov": (0, (9, 1.5)),
    "dro": (0, (9, 1.5)),
}
VARIANT_OF = {
    "dispo": "cispo",
    "icepop": "sapo",
    "ipo": "dppo",
    "kpop": "dppo",
    "ripo": "maspo",
    "dcpo": "maspo",
    "luspo": "gspo",
    "vespo": "gspo",
    "opsm": "gspo",
    "aspo_entropy": "aspo",
    "erc": "grpo",
    "top_entropy": "grpo",
    "bapo": "grpo",
    "clip_cov": "grpo",
    "kl_cov": "pg",
    "dro": "reinforce",
}
LABELS = {
    "dgpo": "DGPO",
    "grpo": "GRPO",
    "cispo": "CISPO",
    "gppo": "GPPO",
    "ce_gppo": "CE-GPPO",
    "aspo": "ASPO",
    "pg": "PG (unclipped)",
    "reinforce": "REINFORCE",
    "cispo_cap": "CISPO (cap)",
    "sapo": "SAPO",
    "maspo": "MASPO",
    "dppo": "DPPO",
    "drpo": "DRPO",
    "gspo": "GSPO",
    "gmpo": "GMPO",
    "dispo": "DISPO",
    "icepop": "IcePop",
    "ipo": "IPO",
    "kpop": "KPop",
    "ripo": "RIPO",
    "dcpo": "DCPO",
    "luspo": "LUSPO",
    "vespo": "VESPO",
    "opsm": "OPSM",
    "aspo_entropy": "ASPO (entropy)",
    "erc": "ERC",
    "top_entropy": "Top-entropy",
    "bapo": "BAPO",
    "clip_cov": "Clip-Cov",
    "kl_cov": "KL-Cov",
    "dro": "DRO",
}
# slate: less likely than when sampled; sand: more likely; dark: where clips act; light: lagging
REGION_COLOURS = {"LN": "#2F4858", "HP": "#7A5C2E", "LP": "#86A5B5", "HN": "#D8BE8A", "IN": "#DDDDDD"}
REGION_LABELS = {
    "LN": "LN  r<1−ε, A<0 (left)",
    "HP": "HP  r>1+ε, A>0 (right)",
    "LP": "LP  r<1−ε, A>0 (lagging)",
    "HN": "HN  r>1+ε, A<0 (lagging)",
    "IN": "IN  inside",
}
POSITIVE, NEGATIVE = "#B40426", "#3B4CC0"  # the ends of the map "coolwarm", which colours advantages
TRUST = "#F2F2F2"

_SPARE = ("#AA4499", "#117733", "#6699CC", "#AA4466", "#997700", "#004488")
_SPARE_DASHES = ((0, (4, 1, 1, 1)), (0, (6, 1)), (0, (2, 1)), (0, (1, 2)), (0, (8, 2, 2, 2)))


def colour(key: str) -> str:
    """The colour of a method or of the method that it varies; an unknown key always gets the same spare colour."""
    return COLOURS.get(VARIANT_OF.get(key, key)) or _SPARE[zlib.crc32(key.encode()) % len(_SPARE)]


def dash(key: str):
    """The line style of a method."""
    return DASHES.get(key) or _SPARE_DASHES[zlib.crc32(key.encode()) % len(_SPARE_DASHES)]


def label(key: str) -> str:
    """The name of a method, as papers write it."""
    return LABELS.get(key, key)


def line(key: str) -> dict:
    """Keyword arguments of `Axes.plot` for a method's line."""
    return {
        "color": colour(key),
        "linestyle": dash(key),
        "linewidth": 2.2 if key == "dgpo" else 1.6,
        "label": label(key),
    }


def save(folder: str | Path, figures: Mapping[str, Figure], **options) -> Path:
    """Write figures as `figures/NAME.png` in a run, an evaluation or a sweep; returns that folder.

    `options` are those of `Figure.savefig`.
    """
    target = Path(folder) / "figures"
    target.mkdir(exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(target / f"{name}.png", **options)
    return target


def shade_trust_region(ax, low: float, high: float) -> None:
    """Shade [low, high] on the ratio axis behind everything else."""
    ax.axvspan(low, high, color=TRUST, zorder=0, linewidth=0)


@contextmanager
def figure_style(publication: bool = False):
    """The rcParams of the suite; `publication` is a 5.5-inch text width with 8-point type and 300 dpi."""
    size = 8 if publication else 10
    with mpl.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": "#E6E6E6",
            "grid.linewidth": 0.6,
            "axes.axisbelow": True,
            "axes.titlesize": size + 1,
            "axes.labelsize": size,
            "xtick.labelsize": size - 1,
            "ytick.labelsize": size - 1,
            "legend.fontsize": size - 1,
            "legend.frameon": False,
            "font.size": size,
            "figure.dpi": 100,
            "savefig.dpi": 300 if publication else 150,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
        }
    ):
        yield plt
