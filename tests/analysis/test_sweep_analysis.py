"""What is said of a sweep: pairing, intervals, collapses and sentences on made-up runs; the notebook on real ones."""

import numpy as np
import pandas as pd
import papermill
import pytest
from running import SMALL, execute, shown

from analysis import stats, sweep_plots, sweeps
from dgpo.config import ConfigError
from dgpo.methods import REGIONS
from dgpo.sweeps import definition

LEVELS = {
    "grpo": {"method": "grpo"},
    "cispo": {"method": "cispo"},
    "dgpo_n1": {"method": "dgpo", "n": 1},
    "dgpo_n2": {"method": "dgpo", "n": 2},
}


def made_up(effects, seeds=5, noise=0.01, shared=0.1, lr=(0.1, 0.2), diverged=(), fell=(), factors=None):
    """Results in which a line's last score is 0.5 + its effect + what its seed shares with all lines + noise."""
    rng = np.random.default_rng(0)
    factors = factors or {"method": LEVELS, "lr": list(lr)}
    sweep = definition.make({"name": "made-up", "folder": "nowhere", "factors": factors, "seeds": [*range(seeds)]})
    common, rows = rng.normal(0, shared, seeds), []
    for run in sweep.runs():
        line, (_, panel) = run.cell.levels["method"], [*run.cell.levels.values(), ""][:2]
        end = 0.5 + effects.get((line, panel), effects.get(line, 0)) + common[run.seed] + rng.normal(0, noise)
        head = {"cell": run.cell.name, "seed": run.seed, "status": "finished"}
        stop = 2 if line in diverged else 5
        for step in range(stop):
            row = {**head, "step": step, "status": "diverged" if line in diverged else "finished"}
            if step in (0, 4):
                score = 0.3 if step == 0 else 0.01 if line in fell else end
                row |= {f"eval/{k}": score for k in ("avg@8", "pass@2", "pass@4", "pass@8")}
            if step:
                norms = 9.0 if step == 3 else 1.0
                row |= {"entropy": 0.1, "reward/mean": end, "max_w_log": 2.0, "max_w_prob": 1e4}
                row |= {"grad_norm/max": norms, **{f"tokens/{r}": 0.96 if r == "IN" else 0.01 for r in REGIONS}}
            rows.append(row)
    return sweeps.Results(sweep, pd.DataFrame(rows))


def test_lines_panels_and_labels():
    results = made_up({})
    assert (results.factor, results.lines, results.panels) == ("method", [*LEVELS], ["lr=0.1", "lr=0.2"])
    assert results.labels == {"grpo": "GRPO", "cispo": "CISPO", "dgpo_n1": "DGPO (n 1)", "dgpo_n2": "DGPO (n 2)"}
    with pytest.raises(sweeps.SweepError, match=r"line 'pg' must be one of: 'grpo', 'cispo'"):
        results.cell("pg", "lr=0.1")


def test_pairing_removes_what_the_seeds_share():
    results = made_up({"cispo": 0.05}, shared=0.05, noise=0.005, seeds=10)
    found = sweeps.comparison(results, "avg", "grpo", "lr=0.1").set_index("line")
    assert found.loc["cispo", "difference"] == pytest.approx(0.05, abs=0.02)
    assert found.loc["cispo", "low"] > 0
    assert found.loc["cispo", ["pairs", "collapsed"]].tolist() == [10, 0]
    spread = np.ptp(sweeps.scores(results, "avg", "lr=0.1")["cispo"])
    assert spread > 5 * (found.loc["cispo", "high"] - found.loc["cispo", "low"])


def test_the_two_intervals_cover_as_often_as_the_docs_say():
    rng = np.random.default_rng(0)
    for runs, covered in ((5, 0.84), (3, 0.75)):
        zero, boot, student = np.zeros((runs, 1)), 0, 0
        for _ in range(400):
            x = rng.normal(size=(runs, 1))
            a, b = stats.paired_difference(x, zero, rng, resamples=400), stats.paired_t(x, zero)
            boot, student = boot + (a.low <= 0 <= a.high), student + (b.low <= 0 <= b.high)
        assert boot / 400 == pytest.approx(covered, abs=0.05)
        assert student / 400 == pytest.approx(0.95, abs=0.035)


def test_a_missing_seed_is_named():
    results = made_up({})
    cut = results.frame[~((results.frame["cell"] == "cispo,lr=0.2") & (results.frame["seed"] == 3))]
    short = sweeps.Results(results.sweep, cut)
    assert "cispo" in sweeps.scores(short, "avg", "lr=0.1")
    with pytest.raises(sweeps.SweepError, match=r"all seeds of lr=0\.2; missing: cispo seed 3$"):
        sweeps.comparison(short, "avg", "grpo")


def test_one_seed_is_no_comparison():
    results = made_up({}, seeds=1)
    for call in (sweeps.findings, sweeps.main_table, sweep_plots.differences):
        with pytest.raises(sweeps.SweepError, match=r"needs at least two seeds; there is seed 0 alone"):
            call(results, "grpo")
    with pytest.raises(sweeps.SweepError, match="at least two seeds"):
        sweep_plots.outcome(results)
    sweep_plots.learning(results)  # which shows it all the same


def test_the_panels_of_an_outcome_have_one_scale():
    figure = sweep_plots.outcome(made_up({("cispo", "lr=0.2"): 0.4}))
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim()


class TestFindings:
    def test_no_difference_says_so(self):
        said = sweeps.findings(made_up({}), "grpo")
        assert not [s for s in said if " above " in s or " below " in s or "often" in s]
        assert said[0] == "At lr=0.1: none of 20 runs collapsed."
        assert "with 5 seeds no difference in held-out avg@8" in said[1]
        assert said[1].endswith("is shown for CISPO, DGPO (n 1), DGPO (n 2).")
        assert "12 comparisons, p adjusted by Holm" in said[-1]
        assert "with 5 seeds a score's p is at least 0.062" in said[-1]

    def test_two_tied_seeds_decide_nothing(self):
        """Two equal differences have no spread, which is no evidence: it once was an interval of width 0."""
        said = sweeps.findings(made_up({"cispo": -0.145}, seeds=2, noise=0, shared=0), "grpo")
        assert not [s for s in said if " above " in s or " below " in s]
        table = sweeps.main_table(made_up({"cispo": -0.145}, seeds=2, noise=0, shared=0), "grpo")
        assert "-0.145 (−∞ to ∞; 2 pairs, p 1)" in table.to_string()

    def test_false_claims_are_as_rare_as_promised(self):
        """Forty sweeps without any difference, twelve comparisons each, ten seeds: a claim is made in about two."""
        rng, claims = np.random.default_rng(1), 0
        results = made_up({}, seeds=10)
        last = results.frame["step"] == 4
        for _ in range(40):
            frame = results.frame.copy()
            frame.loc[last, "eval/avg@8"] = 0.5 + rng.normal(0, 0.05, last.sum())
            said = sweeps.findings(sweeps.Results(results.sweep, frame), "grpo")
            claims += any("above" in s or "below" in s or "often" in s for s in said)
        assert claims <= 6

    def test_a_difference_is_told_where_it_is_and_in_its_direction(self):
        effects = {("cispo", "lr=0.2"): 0.1, ("dgpo_n1", "lr=0.2"): -0.1}
        said = sweeps.findings(made_up(effects, noise=0.02, shared=0.01, seeds=14), "grpo")
        at = {place: [s for s in said if s.startswith(f"At {place}")] for place in ("lr=0.1", "lr=0.2")}
        assert not [s for s in at["lr=0.1"] if "above" in s or "below" in s]
        above, below = (next(s for s in at["lr=0.2"] if word in s) for word in ("above", "below"))
        assert "is above that of GRPO for CISPO: +0.0" in above
        assert "is below that of GRPO for DGPO (n 1): -0." in below
        assert "14 pairs, p 0.0" in above

    def test_collapses_are_compared_as_proportions(self):
        said = sweeps.findings(made_up({}, fell=["cispo"], seeds=10, shared=0.01), "grpo")
        assert "At lr=0.1: CISPO collapses more often than GRPO." in said
        assert any("too few runs survived to compare" in s and s.endswith("GRPO for CISPO.") for s in said)
        few = sweeps.findings(made_up({}, fell=["cispo"], seeds=5, shared=0.01), "grpo")
        assert not any("often" in s for s in few)  # 5 of 5 against 0 of 5: p 0.0079, and 12 comparisons

    def test_what_is_the_same_number_is_called_so(self):
        said = sweeps.findings(made_up({"cispo": 0.1}, noise=0), "grpo")
        assert said[1].endswith("is the same number as that of GRPO in all 5 seeds for DGPO (n 1), DGPO (n 2).")
        assert said[2].endswith("no difference in held-out avg@8 after the last step to GRPO is shown for CISPO.")

    def test_collapsed_and_diverged_runs_are_counted(self):
        results = made_up({}, fell=["cispo"], diverged=["dgpo_n2"])
        frame = results.runs.set_index(["line", "panel", "seed"])
        assert frame.loc[("dgpo_n2", "lr=0.1", 0), ["avg", "collapsed"]].tolist() == [0.0, True]
        assert frame.loc[("cispo", "lr=0.1", 0), "collapsed"]
        assert not frame.loc[("grpo", "lr=0.1", 0), "collapsed"]
        assert frame.loc[("grpo", "lr=0.1", 0), "spikes"] == 1
        below_start = made_up({"grpo": -0.21}, shared=0, noise=0).runs.set_index(["line", "panel", "seed"])
        assert below_start.loc[("grpo", "lr=0.1", 0), "collapsed"]  # 0.29 from 0.3, though above half of its best
        said = sweeps.findings(results, "grpo")
        listed = "At lr=0.1: runs that collapsed: GRPO 0 of 5, CISPO 5 of 5 (p 0.063), DGPO (n 2) 5 of 5 (p 0.063)."
        assert listed in said
        assert "10 of the collapsed runs diverged, which counts as a score of 0." in said

    def test_an_unknown_reference(self):
        for call in (sweeps.findings, sweeps.main_table):
            with pytest.raises(sweeps.SweepError, match="reference 'pg' must be one of: grpo, cispo"):
                call(made_up({}), "pg")


def test_the_grid_shows_every_cell_and_its_limits():
    pairs = {f"n{n}_m{m}": {"method": "dgpo", "n": n, "m": m} for n in (0.5, 1) for m in (1, 2, 4)}
    effects = {name: 0.01 * i for i, name in enumerate(pairs)}
    levels = {"method": {**pairs, "gppo": {"method": "gppo"}}}
    results = made_up(effects, noise=0, shared=0, factors=levels, fell=["gppo"])
    figure = sweep_plots.grid(results)
    inner, outer = ([t.get_text() for t in ax.texts] for ax in figure.axes[:2])
    assert inner == ["0.500", "0.510", "0.520", "0.530", "0.540", "0.550"]
    assert outer == ["0.010\n5/5 collapsed"]
    with pytest.raises(sweeps.SweepError, match=r"is of one panel; this sweep has: lr=0.1, lr=0.2"):
        sweep_plots.grid(made_up({}))


def test_along_a_numerical_factor():
    results = made_up({"cispo": 0.1}, noise=0, shared=0)
    figure = sweep_plots.along(results, "lr")
    line = next(line for line in figure.axes[0].get_lines() if line.get_label() == "CISPO")
    assert line.get_xydata().tolist() == [[0.1, pytest.approx(0.6)], [0.2, pytest.approx(0.6)]]
    with pytest.raises(sweeps.SweepError, match="factor 'num_minibatches' must be the one beside 'method'"):
        sweep_plots.along(results, "num_minibatches")


def test_a_diverged_line_does_not_break_the_curves():
    results = made_up({}, diverged=["cispo"])
    for draw in (sweep_plots.learning, sweep_plots.pass_curves, sweep_plots.outcome, sweep_plots.extremes):
        labels = [t.get_text() for t in draw(results).axes[0].get_yticklabels()]
        assert labels


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    settings = {**SMALL, "steps": 2, "eval_every": 1}
    parameters = {"out": str(folder / "small"), "methods": ["cispo", "dgpo"], "settings": settings}
    execute("compare", folder / "out.ipynb", parameters)
    return folder


def test_the_notebook_runs_a_sweep(executed):
    data = shown(executed / "out.ipynb")
    assert sum("image/png" in d for d in data) == 7
    text = "".join(d.get("text/markdown", "") for d in data)
    assert "## Equal in all cells" in text
    assert "held-out avg@2 after the last step" in text
    assert "- 2 comparisons, p adjusted by Holm" in text
    assert " above " not in text  # two steps of two seeds show nothing
    found = {path.name for path in (executed / "small" / "figures").iterdir()}
    assert {"main.csv", "rough.csv", "runs.csv", "findings.md", "learning.png", "weights.png"} <= found


def test_a_sweep_without_any_result_says_so(tmp_path):
    """All of its runs may have failed: the table then has no column."""
    factors = {"method": {"grpo": LEVELS["grpo"]}}
    sweep = definition.make({"name": "failed", "folder": str(tmp_path), "factors": factors, "seeds": [0, 1]})
    definition.dump(sweep, tmp_path / "sweep.yaml")
    with pytest.raises(sweeps.SweepError, match=r"no run of this sweep has ended with a result yet; --report says"):
        sweeps.read(tmp_path, seeds=[0])


def test_a_finished_sweep_is_read(executed, tmp_path):
    results = sweeps.read(executed / "small")
    assert sweeps.main_table(results, "cispo")["method"].tolist() == ["CISPO", "DGPO"]
    assert results.run("dgpo", "", 1).tokens(1)["step"].unique().tolist() == [1]
    with pytest.raises(sweeps.SweepError, match="has no seed 7; its seeds: 0, 1"):
        sweeps.read(executed / "small", seeds=[7])
    with pytest.raises(ConfigError, match=r"has no sweep\.yaml"):
        sweeps.read(tmp_path)


def test_an_unknown_parameter_stops_it(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'folders'"):
        execute("compare", tmp_path / "out.ipynb", {"folders": 1})
