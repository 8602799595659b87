"""What a method does to a token, in words: ranges of r that can be derived by hand."""

import pytest
from matplotlib.colors import to_hex

from analysis import schematic, style
from analysis.schematic import doing, segments
from dgpo.methods import get

EQUAL = {"eps_low": 0.2, "eps_high": 0.2}


def words(method, advantage):
    """(word, from, to) of one method, ratios to three digits."""
    found = segments([method], pi_old=0.05)
    found = found[found["advantage"] == advantage]
    return [(row.word, round(row.low, 3), round(row.high, 3)) for row in found.itertuples()]


def test_a_gate_in_words():
    found = doing([-1, 0, 0.97, 0.99, 1.01, 1.03])
    assert found.tolist() == ["pulls back", "stops", "slows down", "as unclipped", "as unclipped", "pushes harder"]


def test_the_hard_clip_stops_at_either_boundary():
    grpo = get("grpo", **EQUAL, dual_clip=None)
    assert words(grpo, -1) == [("stops", 0.01, 0.8), ("as unclipped", 0.8, 20.0)]
    assert words(grpo, 1) == [("as unclipped", 0.01, 1.2), ("stops", 1.2, 20.0)]


def test_no_clip_is_one_range():
    assert words("pg", 1) == words("pg", -1) == [("as unclipped", 0.01, 20.0)]


@pytest.mark.parametrize(
    ("key", "word"), [("cispo", "pushes harder"), ("gppo", "pushes harder"), ("dgpo", "slows down")]
)
def test_a_vanishing_bad_token_is_pushed_harder_by_soft_clips_alone(key, word):
    """(1−ε)/r > 1.02 below 0.784, where DGPO's gate is (r/(1−ε))^n < 0.98."""
    (first, low, high), (second, *_) = words(get(key, **EQUAL), -1)[:2]
    assert (first, second, low) == (word, "as unclipped", 0.01)
    assert high == pytest.approx(0.784, abs=0.005)


def test_the_figure_has_a_bar_for_each_range_and_no_colour_of_a_method():
    methods = [get(k, **EQUAL) for k in ("grpo", "cispo", "dgpo")]
    figure = schematic.figure(methods)
    bars = [bar for ax in figure.axes for bar in ax.patches]
    assert len(bars) == len(segments(methods))
    assert not {to_hex(bar.get_facecolor()).upper() for bar in bars} & {c.upper() for c in style.COLOURS.values()}
