"""Figures of the sequence policy show what their tables hold."""

import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.colors import same_color

from analysis import sequence, sequence_plots, style
from analysis.sequence import World

SMALL = World(length=2, vocabulary=4, features=6, held_out=8, prompts=4, group=4, epochs=2, minibatches=2)


def test_a_line_for_each_method_over_its_rates():
    found = sequence.run(sequence.grid(["grpo", "dgpo"], [0.01, 0.1]), SMALL, seeds=range(3), steps=2, every=2, k=4)
    (ax,) = sequence_plots.against_rate(found, "pass@4").axes
    drawn = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_label() in ("GRPO", "DGPO")]
    assert len(drawn) == 2
    assert [label.get_text() for label in ax.get_xticklabels(which="both") if label.get_text()] == ["0.01", "0.1"]
    last = found[(found["step"] == 2) & (found["method"] == "grpo")].groupby("lr")["pass@4"].mean()
    assert drawn[0].get_ydata() == pytest.approx(last.to_numpy())


def test_a_shown_difference_is_filled_and_colours_are_the_methods():
    others = {"GRPO": ("grpo", 0.01), "PG": ("pg", 0.4), "CISPO": ("cispo", 0.01)}
    rows = [("base", "best", "DGPO (2, 2)", b, 0.1, 0.0, 0.2, p) for b, (_, p) in others.items()]
    table = pd.DataFrame(rows, columns=["world", "setting", "a", "b", "difference", "low", "high", "p_holm"])
    (ax,) = sequence_plots.differences(table).axes
    dots = [c for c in ax.collections if isinstance(c, PathCollection)]
    for dot, (key, p) in zip(dots, others.values(), strict=True):
        assert same_color(dot.get_edgecolor()[0], style.colour(key)), key
        assert same_color(dot.get_facecolor()[0], style.colour(key) if p < 0.05 else "white"), key


def test_a_table_without_rows_says_so():
    table = pd.DataFrame(columns=["world", "setting", "a", "b", "difference", "low", "high", "p_holm"], dtype=object)
    assert "no differences of 'DGPO (2, 2)'" in sequence_plots.differences(table).axes[0].texts[0].get_text()
