"""evaluate.ipynb from top to bottom on small settings, and the tables and figures it is made of."""

import numpy as np
import papermill
import pytest
from running import SMALL, execute, shown

from analysis import evaluation_plots, evaluations, published
from dgpo.evaluation.folder import EvaluationError
from dgpo.evaluation.scores import Samples


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    training = {
        k: SMALL[k]
        for k in ("tiny", "difficulty", "prompts_per_step", "group_size", "num_minibatches", "micro_batch_size")
    }
    training |= {"max_new_tokens": 14, "steps": 2, "eval_problems": 4, "eval_samples": 2}
    parameters = {
        "folder": str(folder),
        "training": training,
        "n": 8,
        "ranks": 2,
        "settings": {"tiny": SMALL["tiny"], "difficulty": 1, "generated_problems": 12, "generated_max_new_tokens": 14},
    }
    execute("evaluate", folder / "out.ipynb", parameters)
    return folder


def test_it_runs_and_shows_tables_and_figures(executed):
    data = shown(executed / "out.ipynb")
    assert sum("image/png" in d for d in data) == 3
    html = "".join(d.get("text/html", "") for d in data)
    assert "mean avg" in html
    assert "published" not in html  # a toy's score is not to be set beside those of R1-Distill
    for name in ("start", "dgpo"):
        found = {path.name for path in (executed / name / "figures").iterdir()}
        assert found == {"pass.png", "problems-chain.png", "lengths.png"}


def test_the_folders_serve_without_the_notebook(executed):
    found = evaluations.read({"start": executed / "start", "dgpo": executed / "dgpo"})
    assert evaluations.main_table(found)["policy"].tolist() == ["start", "DGPO"]
    table = published.beside(found, "R1-Distill-Qwen-14B")
    assert table["source"].tolist()[:4] == ["ours"] * 4
    assert table["policy"].tolist()[4:] == ["GRPO", "GRPO", "DGPO", "DGPO", "MASPO", "MASPO"]
    assert {s.partition(":")[0] for s in table["source"][4:]} == {"published"}
    assert evaluations.differences(found, "start")["difference"].tolist() == ["DGPO − start"]
    assert evaluations.pass_table(found)["k"].tolist() == [1, 2, 4, 8] * 2
    assert len(evaluations.problems(found, "chain")) == 12
    assert {"verdict", "end"} <= set(evaluations.unread(executed / "start").columns)


def test_an_unknown_parameter_stops_it(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter 'temprature'"):
        execute("evaluate", tmp_path / "out.ipynb", {"temprature": 1})


def test_settings_of_the_evaluation_are_checked_before_the_training(tmp_path):
    with pytest.raises(papermill.PapermillExecutionError, match="n=0: input should be greater than"):
        execute("evaluate", tmp_path / "out.ipynb", {"folder": str(tmp_path / "e"), "n": 0, "training": {"steps": 1}})
    assert not (tmp_path / "e").exists()


def test_mistakes_name_what_there_is(executed):
    found = evaluations.read({"start": executed / "start"})
    for call, said in (
        (lambda: published.beside(found, "GPT"), "published='GPT' must be None or one of: R1-Distill"),
        (lambda: evaluations.differences(found, "grpo"), "reference='grpo' must be one of: start"),
        (lambda: evaluations.problems(found, "aime"), "no evaluation of 'aime'; there are: chain"),
    ):
        with pytest.raises(ValueError, match=said):
            call()
    with pytest.raises(EvaluationError, match="is not an evaluation"):
        evaluations.read({"run": executed / "training"})


def test_figures_of_several_benchmarks():
    rng = np.random.default_rng(0)

    def one(name, skill):
        right = rng.random((30, 16)) < rng.beta(1, 2, size=(30, 1)) * skill
        verdicts = np.where(right, "correct", "wrong").astype(object)
        problems = tuple(f"{name}{i}" for i in range(30))
        answers = np.where(right, "1", "2").astype(object)
        return Samples(name, name, problems, verdicts, answers, rng.integers(5, 900, (30, 16)), right | True)

    found = {key: [one("aime24", skill), one("math500", skill)] for key, skill in (("grpo", 0.7), ("dgpo", 1.0))}
    curves = evaluation_plots.pass_curves(found)
    assert [ax.get_title() for ax in curves.axes] == ["aime24", "math500", "mean of 2 benchmarks"]
    assert all(len(ax.lines) == 2 for ax in curves.axes)
    assert len(evaluation_plots.lengths(found).axes[0].get_yticklabels()) == 4
    assert evaluation_plots.problem_map(found, "aime24", publication=True).axes[0].get_title() == "aime24"
