"""Lines are named where they end; the scale of an axis does not make small values look like 0."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from analysis import plots
from analysis.axes import MOST, apart, label_ends, scale_axis


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 0.12))
def test_names_stand_apart_in_the_order_of_their_lines_and_no_further_than_needed(heights, gap):
    heights = np.sort(heights)
    found = apart(heights, gap)
    assert (np.diff(found) >= gap - 1e-9).all()
    assert found.min() >= -1e-9
    assert found.max() <= 1 + 1e-9
    if (np.diff(heights) >= gap).all():
        assert found == pytest.approx(heights)


def test_names_that_do_not_fit_stand_apart_all_the_same():
    assert np.diff(apart(np.linspace(0.4, 0.6, 8), 0.3)).min() == pytest.approx(0.3)


def panels(*ends: list[float]):
    """A figure with a column of lines from (1, 1) to (100, end) for each list of ends."""
    figure, axes = plt.subplots(1, len(ends), squeeze=False)
    for ax, heights in zip(axes[0], ends, strict=True):
        for i, height in enumerate(heights):
            ax.plot([1, 100], [1, height], label=f"line {i}", color=f"C{i}")
    return figure, axes[0]


def names_in(ax) -> list[str]:
    """From the top."""
    return [text.get_text() for text in sorted(ax.texts, key=lambda t: -t.get_position()[1])]


def test_the_column_in_which_the_lines_part_names_them():
    figure, axes = panels([1, 2, 3], [5, 5, 5])
    assert label_ends(figure.axes, ["line 0", "line 1", "line 2"]) == {"line 0", "line 1", "line 2"}
    assert names_in(axes[0]) == ["line 2", "line 1", "line 0"]
    assert not axes[1].texts
    assert [text.get_color() for text in axes[0].texts] == ["C0", "C1", "C2"]


def test_lines_that_end_together_keep_their_order_from_the_top():
    figure, axes = panels([5, 5, 5])
    label_ends(figure.axes, ["line 0", "line 1", "line 2"])
    assert names_in(axes[0]) == ["line 0", "line 1", "line 2"]


def test_a_line_that_has_left_is_named_at_the_edge():
    figure, axes = panels([1e-20, 1])
    axes[0].set(yscale="log", ylim=(1e-3, 10))
    label_ends(figure.axes, ["line 0", "line 1"])
    left = next(text for text in axes[0].texts if text.get_text() == "line 0")
    assert left.xy[1] == 0


def legend_of(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_more_lines_than_can_be_named_have_a_legend_without_a_row_of_one():
    figure, axes = panels(list(np.linspace(0, 1, MOST + 1)))
    plots.finish(plt, figure, axes[0].get_lines(), columns=4)
    assert not axes[0].texts
    assert len(legend_of(figure)) == MOST + 1
    assert figure.legends[0]._ncols == 3  # nine in three rows; four columns would leave one alone


def test_named_lines_have_no_legend():
    figure, axes = panels([1, 2])
    plots.finish(plt, figure, axes[0].get_lines())
    assert not figure.legends


@pytest.mark.parametrize(("decades", "linear"), [(6, 1.0), (12, 1e-2)])
def test_the_smallest_weight_is_off_the_line_of_zeros(decades, linear):
    """GPPO's 1e6 beside DGPO's 0.01 and GRPO's 0: with six decades, 0.01 would look like 0."""
    figure, ax = plt.subplots()
    scale_axis(ax, "y", [0.0, 1e-2, 1e6], log=True, decades=decades)
    assert ax.yaxis.get_transform().linthresh == pytest.approx(linear)
    plt.close(figure)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")
