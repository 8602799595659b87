"""analysis.plots: every figure draws, axes are labelled, nothing is left open."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from analysis import bandit, flow, heat_maps, plots, stats
from analysis.landscape import landscape
from analysis.leakage import leakage
from dgpo.methods import PAPER, get, get_class, names


@pytest.fixture(scope="module")
def runs():
    settings = [bandit.Setting(name=n, arms=4) for n in "ab"]
    return bandit.run(["dgpo", "grpo", get("dgpo", n=2.0)], settings, seeds=3, steps=8)


def check(figure, named_rows=False):
    """A figure to show: closed, drawn, every panel with data, axes named unless the rows of one panel are."""
    assert isinstance(figure, Figure)
    assert not plt.get_fignums(), "a figure was left open"
    shown = [ax for ax in figure.axes if ax.get_visible()]
    assert all(ax.has_data() for ax in shown)
    assert any(ax.get_xlabel() for ax in shown)
    assert named_rows or any(ax.get_ylabel() for ax in shown)
    figure.canvas.draw()
    return figure


@pytest.mark.parametrize("publication", [False, True])
def test_landscapes(publication):
    frame = landscape(PAPER, points=51)
    for columns, spaces in (("space", ("w_log", "gate", "logit")), ("method", ("gate",))):
        figure = check(plots.landscape(frame, columns=columns, spaces=spaces, publication=publication))
        assert len(figure.axes) == 2 * (3 if columns == "space" else 6)
    assert figure.get_size_inches()[0] == (5.5 if publication else pytest.approx(16.2))
    check(plots.landscape(frame, x="pi", log_x=False, log_y=False))


def test_method_curves_of_every_method_and_of_variants():
    check(plots.method_curves([key for key in names() if get_class(key).has_curve()]))
    figure = check(plots.method_curves([get("dgpo"), get("dgpo", n=3.0)]))
    labels = {t.get_text() for ax in figure.axes for t in ax.texts if isinstance(t, Annotation)}
    assert len(labels) == 3
    assert any("n=3" in label for label in labels)
    first, second = figure.axes[0].lines[:2]
    assert (first.get_color(), first.get_linestyle()) != (second.get_color(), second.get_linestyle())


def test_one_path_is_drawn_over_the_fall_with_a_dot_at_each_end():
    """Drift and log π of two methods at other times: other curves over time, one over the fall of log π."""
    frame = leakage(["cispo", "dgpo"], policy="linear", steps=60, lr=0.1, seeds=1)
    frame["fall"] = np.log(0.05) - frame["log_pi"]
    figure = check(plots.dynamics(frame, panels=("drift", "drift"), over=("time", "fall")))
    by_time, by_fall = ([line.get_xydata() for line in ax.lines if len(line.get_xdata()) > 1] for ax in figure.axes)
    far, near = by_fall  # CISPO falls further
    assert np.interp(near[:, 0], far[:, 0], far[:, 1]) == pytest.approx(near[:, 1], rel=0.02)
    assert by_time[0][-1, 1] > 1.5 * by_time[1][-1, 1]
    assert sum(len(line.get_xdata()) == 1 for line in figure.axes[1].lines) == 2


def test_some_methods_of_some_settings(runs):
    part = runs.pick("b", methods=["grpo"])
    assert (part.methods, part.settings) == (("grpo",), ("b",))
    assert np.array_equal(part.data["entropy"][0, 0], runs.data["entropy"][1, 1])
    with pytest.raises(ValueError, match="no method 'ppo'; there are: dgpo, grpo"):
        runs.pick("b", methods=["ppo"])


def test_negative_weights_are_visible():
    figure = check(plots.method_curves(get("drpo", eps=0.3)))
    assert figure.axes[0].get_ylim()[0] < -1


def test_bandit_figures(runs):
    figure = check(plots.curves(runs))
    assert len(figure.axes) == 6
    check(plots.region_shares(runs))
    rng = np.random.default_rng(0)
    table = stats.summary({"a": rng.random((4, 1)), "b": rng.random((4, 1))}, rng, "a")
    check(plots.intervals(table), named_rows=True)
    check(plots.intervals(table, "mean", label="score"), named_rows=True)


def test_the_others():
    check(plots.dynamics(flow.flow(["dgpo", "gppo"], np.geomspace(0.1, 50, 30))))
    check(heat_maps.heat_map(np.eye(2), [1, 2], ["a", "b"], row_label="n", column_label="m", value_label="v"))


def test_noise_stays_one_colour():
    noise = np.array([[1.0, 1.1], [0.9, 1.0]])
    (ax, *_) = heat_maps.heat_map(noise, [1, 2], [1, 2], value_label="v", error=0.1).axes
    assert ax.collections[0].get_clim() == pytest.approx((0.6, 1.4))
    assert heat_maps.wide_span([0.0, 9.0], 0.1) == (0.0, 9.0)


def test_bad_inputs(runs):
    frame = landscape("pg", points=5)
    with pytest.raises(ValueError, match="columns='panel'"):
        plots.landscape(frame, columns="panel")
    with pytest.raises(ValueError, match="unknown space 'w'"):
        plots.landscape(frame, spaces=("w",))
    with pytest.raises(ValueError, match="unknown metric 'x'"):
        plots.curves(runs, ("x",))
    with pytest.raises(ValueError, match=r"shape \(2, 2\)"):
        heat_maps.heat_map(np.eye(2), [1], [1, 2])
    with pytest.raises(ValueError, match="no column"):
        plots.intervals(stats.summary({"a": [[1], [2]]}, np.random.default_rng(0)))


def test_a_method_s_colour_stands_for_nothing_else_but_variants_told_by_their_dash():
    from analysis import evaluation_plots, style

    assert style.LABELS.keys() >= {key for key in names() if get_class(key).__module__.startswith("dgpo.")}
    heads = [style.colour(key).upper() for key in style.LABELS if key not in style.VARIANT_OF]
    others = [*style.REGION_COLOURS.values(), style.POSITIVE, style.NEGATIVE]
    others += evaluation_plots.VERDICT_COLOURS.values()
    assert len({*heads}) == len(heads)
    lines = [(style.colour(key), style.dash(key)) for key in style.LABELS]
    assert len({*lines}) == len(lines)
    assert not {*heads} & {colour.upper() for colour in others}
