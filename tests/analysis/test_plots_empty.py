"""Figures of little: of nothing, of one value, of values that are all equal. Each says what is missing; none raises."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import running
from matplotlib.figure import Figure
from running import SMALL
from test_sweep_analysis import made_up

from analysis import axes, bandit, evaluation_plots, flow, heat_maps, plots, run_plots, runs, stats, sweep_plots, sweeps
from analysis.landscape import landscape
from dgpo.evaluation.scores import Samples


def words(figure) -> str:
    """All that a figure says; it is drawn and not left open."""
    assert isinstance(figure, Figure)
    assert not plt.get_fignums()
    figure.canvas.draw()
    titles = [t for ax in figure.axes for t in (ax.title, *ax.texts)]
    return " | ".join(t.get_text().replace("\n", " ") for t in [*titles, *figure.texts] if t.get_text())


class TestPlots:
    WEIGHTS = landscape("pg", points=5)
    FLOW = flow.flow(["pg"], np.array([1.0]))
    BANDIT = bandit.run(["pg"], [bandit.Setting(arms=4)], seeds=1, steps=1)
    TABLE = stats.summary({"pg": np.zeros((3, 1)), "grpo": np.zeros((3, 1))}, np.random.default_rng(0), "pg")

    @staticmethod
    def part(methods=1, settings=1, steps=1):
        runs = TestPlots.BANDIT
        data = {name: values[:methods, :settings, ..., :steps] for name, values in runs.data.items()}
        names = {"methods": runs.methods[:methods], "names": runs.names[:methods], "settings": runs.settings[:settings]}
        return replace(runs, **names, step=runs.step[:steps], data=data)

    @pytest.mark.parametrize(
        ("draw", "said"),
        [
            (lambda s: plots.landscape(s.WEIGHTS.iloc[:0]), "no weights to draw"),
            (lambda s: plots.landscape(s.WEIGHTS.iloc[:0], columns="method", spaces=("gate",)), "no weights to draw"),
            (lambda s: plots.landscape(s.WEIGHTS.iloc[:1]), "weight on ∇log π"),
            (lambda s: plots.landscape(s.WEIGHTS.assign(w_log=0.0, gate=0.0), log_y=True), "weight on ∇log π"),
            (lambda s: plots.dynamics(s.FLOW.iloc[:0]), "no time at which"),
            (lambda s: plots.dynamics(s.FLOW), ""),
            (lambda s: plots.dynamics(s.FLOW.assign(pi=0.0, logit_speed=0.0)), ""),
            (lambda s: heat_maps.heat_map(np.empty((0, 0)), [], [], value_label="regret"), "no regret to draw"),
            (lambda s: heat_maps.heat_map(np.full((1, 2), np.nan), [1], [1, 2]), "no values to draw"),
            (lambda s: heat_maps.heat_map(np.zeros((2, 2)), [1, 2], [1, 2]), "0.00"),
            (lambda s: plots.intervals(s.TABLE), ""),
            (lambda s: plots.intervals(s.TABLE.iloc[:1]), "no difference to draw"),
            (lambda s: plots.curves(s.part(methods=0)), "no runs to draw"),
            (lambda s: plots.curves(s.part(settings=0)), "no runs to draw"),
            (lambda s: plots.curves(s.part(steps=0)), "nothing to draw"),
            (lambda s: plots.curves(s.part(), log_y=("entropy",)), ""),
            (lambda s: plots.region_shares(s.part(methods=0)), "no runs to draw"),
            (lambda s: plots.region_shares(s.part()), ""),
        ],
    )
    def test_it_is_drawn(self, draw, said):
        assert said in words(draw(self))

    @pytest.mark.parametrize("values", [[], [0, 0], [np.nan], [3], [-1, -1]])
    @pytest.mark.parametrize("axis", ["x", "y"])
    @pytest.mark.parametrize("log", [None, True, False])
    def test_an_axis_of_any_values_has_a_scale(self, values, axis, log):
        fig, ax = plt.subplots()
        axes.scale_axis(ax, axis, values, log)
        fig.canvas.draw()
        plt.close(fig)


class TestEvaluations:
    @staticmethod
    def samples(verdict, problems=3, n=4):
        shape = (problems, n)
        verdicts, answers = np.full(shape, verdict, object), np.full(shape, "1", object)
        names = tuple(map(str, range(problems)))
        return Samples("math500", "math500", names, verdicts, answers, np.zeros(shape, int), np.full(shape, True))

    @pytest.mark.parametrize("draw", [evaluation_plots.pass_curves, evaluation_plots.lengths])
    @pytest.mark.parametrize("found", [{}, {"a": []}])
    def test_without_a_benchmark(self, draw, found):
        assert words(draw(found)) == "no benchmark was evaluated"

    @pytest.mark.parametrize("size", [(3, 4), (1, 1)])
    @pytest.mark.parametrize("verdict", ["correct", "wrong", "no_answer"])
    def test_when_all_verdicts_are_the_same(self, size, verdict):
        found = {"a": [self.samples(verdict, *size)]}
        words(evaluation_plots.pass_curves(found))
        assert "truncated 0.00%" in words(evaluation_plots.lengths(found))
        words(evaluation_plots.problem_map(found, "math500"))


class TestSweeps:
    KEEP = {
        "one cell made no step": lambda f: f[(f["step"] == 0) | (f["cell"] != "cispo,lr=0.2")],
        "no run made a step": lambda f: f[f["step"] == 0].dropna(axis=1, how="all"),
        "no run of a cell": lambda f: f[f["cell"] != "cispo,lr=0.2"],
        "no run": lambda f: f.iloc[:0],
        "all zero": lambda f: f.mask(f.notna() & (f.dtypes == np.float64), 0.0),
    }

    @staticmethod
    def left(kind):
        results = made_up({}, seeds=2)
        return sweeps.Results(results.sweep, TestSweeps.KEEP[kind](results.frame))

    @pytest.mark.parametrize("kind", KEEP)
    @pytest.mark.parametrize("draw", ["learning", "pass_curves", "regions", "extremes"])
    def test_what_is_there_is_drawn(self, kind, draw):
        said = words(getattr(sweep_plots, draw)(self.left(kind)))
        if kind == "no run made a step" and draw != "pass_curves":
            assert any(reason in said for reason in ("no run has come so far", "no step was made", "no run made an up"))

    @pytest.mark.parametrize("kind", ["one cell made no step", "no run made a step", "all zero"])
    def test_comparisons_of_what_is_there(self, kind):
        results = self.left(kind)
        for figure in (
            sweep_plots.outcome(results),
            sweep_plots.outcome(results, "entropy"),
            sweep_plots.differences(results, "grpo"),
            sweep_plots.along(results, "lr"),
        ):
            words(figure)

    def test_a_comparison_without_all_runs_names_them_and_leaves_no_figure_open(self):
        for draw in (sweep_plots.outcome, lambda results: sweep_plots.along(results, "lr")):
            with pytest.raises(sweeps.SweepError, match="missing: cispo seed 0, cispo seed 1"):
                draw(self.left("no run of a cell"))
            assert not plt.get_fignums()

    def test_a_sweep_of_one_line(self):
        results = made_up({}, seeds=2, factors={"method": {"dgpo": {"method": "dgpo"}}})
        assert "no line beside DGPO" in words(sweep_plots.differences(results, "dgpo"))
        words(sweep_plots.grid(results))
        assert "no run came so far" in words(sweep_plots.grid(replace_column(results, "entropy", np.nan), "entropy"))


def replace_column(results, column, value):
    return sweeps.Results(results.sweep, results.frame.assign(**{column: value}))


@pytest.fixture(scope="module", params=[0.0, 1.0])
def equal(request, tmp_path_factory):
    """A run in which all rewards are equal."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dgpo.tasks.chain.ChainTask.rewards", lambda self, problems, _: [request.param] * len(problems))
        return runs.read(running.run(SMALL, run_dir=str(tmp_path_factory.mktemp("runs") / "equal"), steps=2))


class TestRuns:
    def test_equal_rewards_are_drawn_and_explained(self, equal):
        reward = equal.steps["reward/mean"].iloc[0]
        assert "every advantage is 0" in words(run_plots.weight_scatter(equal.tokens(), equal.method))
        assert "nothing outside" in words(run_plots.region_shares(equal))
        assert "no token there" in words(run_plots.boundary_weights([equal]))
        words(run_plots.learning_curves(equal))
        words(run_plots.weight_histograms([equal]))
        said = runs.no_signal(equal)
        assert f"all completions of a problem had the same reward (mean {reward:.2f})" in said
        assert ("more `completions` of each problem" if reward == 0 else "harder problems") in said

    def test_a_run_that_learned_is_not_explained_away(self, equal):
        steps = equal.metrics.assign(**{"groups/zero_variance": equal.metrics["groups"] - 1})
        assert runs.no_signal(replace(equal, metrics=steps)) == ""
        assert runs.no_signal(replace(equal, metrics=equal.metrics.assign(**{"max_w_log/applied": 1.0}))) == ""

    def test_a_run_without_a_step(self, equal):
        begun = replace(equal, metrics=equal.metrics[equal.metrics["step"] == 0].dropna(axis=1, how="all"))
        figure = run_plots.learning_curves(begun)
        assert "no step was made" in words(figure)
        assert all(len(ax.texts) <= 1 for ax in figure.axes)
        without = replace(equal, metrics=equal.metrics.drop(columns="kl/reference"))
        assert [text.get_text() for text in run_plots.learning_curves(without).axes[3].texts] == [
            "not measured: log_reference_kl=false"
        ]
        assert words(run_plots.region_shares(begun)) == "no step was made"
        assert runs.no_signal(begun) == ""

    def test_a_run_without_token_records(self, equal, tmp_path):
        bare = replace(equal, path=tmp_path)
        tokens = bare.tokens(required=False)
        for figure in (run_plots.weight_scatter(tokens, bare.method), run_plots.boundary_weights([bare])):
            assert "no token was recorded" in words(figure)
        assert "no weight other than 0" in words(run_plots.weight_histograms([bare]))

    def test_no_run(self):
        for draw in (run_plots.learning_curves, run_plots.boundary_weights):
            assert words(draw([])) == "no runs to draw"
        assert "no weight other than 0" in words(run_plots.weight_histograms([]))

    @pytest.mark.parametrize("values", [{"advantage": 1.0}, {"advantage": 1.0, "w_log": 0.0, "w_prob": 0.0}])
    @pytest.mark.parametrize("count", [1, 50])
    def test_tokens_of_one_weight(self, equal, values, count):
        tokens = equal.tokens().head(count).assign(**values)
        assert f"{count} sampled tokens" in words(run_plots.weight_scatter(tokens, equal.method))
