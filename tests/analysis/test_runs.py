"""Reading run folders, and the figures made of them."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import running
from running import SMALL

from analysis import phase, run_plots, runs
from analysis.runs import RunError
from dgpo.config import ConfigError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return running.run(SMALL, run_dir=str(tmp_path_factory.mktemp("runs") / "a"))


@pytest.fixture
def run(folder):
    return runs.read(folder)


def test_what_is_read_is_what_was_written(run):
    assert len(run.steps) == run.config.steps == 4
    assert list(run.evaluations["step"]) == [0, 2, 4]
    assert set(run.tokens()["step"]) == {1, 2, 3, 4}
    assert run.method.key == "dgpo"


def test_before_and_after_stand_side_by_side(run):
    frame = runs.before_after(run, count=3)
    assert list(frame.columns) == ["problem", "answer", "before (step 0)", "after (step 4)"]
    assert len(frame) == 3
    assert frame.iloc[:, 2].str.contains("[✓✗]$", regex=True).all()


def test_the_table_has_the_numbers_of_the_summary(run):
    table = runs.numbers(run)
    after = run.summary["after"]["eval/avg@2"]
    assert table["held-out avg@2 after, 95 % interval"].startswith(f"{after:.3f}")
    assert table["steps"] == 4


def test_the_largest_weights_are_of_tokens_that_acted(run):
    steps = run.metrics
    mixed = steps.assign(**{"max_w_log": 99.0, "max_w_log/applied": 3.0})
    assert runs.numbers(replace(run, metrics=mixed))["largest weight on ∇log π of a token with A ≠ 0"] == "3"
    older = steps.drop(columns=["max_w_log/applied", "max_w_prob/applied"]).assign(max_w_log=99.0)
    assert runs.numbers(replace(run, metrics=older))["largest weight on ∇log π, also of tokens with A = 0"] == "99"


def test_figures_are_drawn_and_saved(run):
    tokens = run.tokens()
    figures = {
        "learning": run_plots.learning_curves(run),
        "pair": run_plots.learning_curves([run, run]),
        "regions": run_plots.region_shares(run),
        "tokens": run_plots.weight_scatter(tokens, run.method),
    }
    for name, figure in figures.items():
        assert runs.save_figure(run, name, figure) is figure
        assert (run.path / "figures" / f"{name}.png").stat().st_size > 10_000
    points = figures["tokens"].axes[0].collections[0].get_offsets()
    assert len(points) == (tokens["advantage"] != 0).sum()
    curves = figures["tokens"].axes[0].get_lines()
    assert any(len(line.get_xdata()) == 400 for line in curves)
    stacked = sum(layer.get_paths()[0].vertices[:, 1].max() >= 0 for layer in figures["regions"].axes[0].collections)
    assert stacked == 4


def test_a_run_without_any_update_is_drawn_as_empty(tmp_path, monkeypatch):
    monkeypatch.setattr("dgpo.tasks.chain.ChainTask.rewards", lambda self, problems, completions: [0.0] * len(problems))
    run = runs.read(running.run(SMALL, run_dir=str(tmp_path / "run"), filter_groups="drop", steps=2))
    run_plots.learning_curves(run)
    run_plots.region_shares(run)
    assert "held-out avg@2 after, 95 % interval" in runs.numbers(run)
    with pytest.raises(RunError, match="no token records"):
        run.tokens()


@pytest.mark.parametrize("key", ["grpo", "drpo", "gspo", "dppo"])
def test_zero_and_negative_weights_are_drawn_too(run, key):
    import torch

    from dgpo import methods

    tokens, method = run.tokens(), methods.get(key, **({"eps": 0.01} if key == "drpo" else {}))
    inputs = (torch.tensor(tokens[c].to_numpy()).double()[:, None] for c in ("logp", "old_logp", "advantage"))
    tokens["w_log"] = method.weight(*inputs).squeeze(1).numpy()
    tokens["w_prob"] = tokens["w_log"] / tokens["prob"]
    figure = run_plots.weight_scatter(tokens, method)
    offsets = np.asarray(figure.axes[0].collections[0].get_offsets())
    assert np.isfinite(offsets).all()


def test_folders_that_are_no_runs_are_named(tmp_path, folder):
    with pytest.raises(RunError, match=r"is not the folder of a run: it has no config\.yaml"):
        runs.read(tmp_path)
    for name in ("config.yaml", "metrics.jsonl"):
        (tmp_path / name).write_text((folder / name).read_text())
    bare = runs.read(tmp_path)
    with pytest.raises(RunError, match="has no token records: it ran with token_records=64"):
        bare.tokens()
    with pytest.raises(RunError, match="has not finished"):
        _ = bare.summary
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match="no rows yet"):
        runs.read(tmp_path)


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path, folder):
    text = (folder / "metrics.jsonl").read_text()
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 5, "rew')
    (tmp_path / "config.yaml").write_text((folder / "config.yaml").read_text())
    assert runs.read(tmp_path).metrics["step"].max() == 4
    (tmp_path / "metrics.jsonl").write_text('{"step"\n' + text)
    with pytest.raises(ConfigError, match=r"metrics\.jsonl, line 1 is damaged"):
        runs.read(tmp_path)


def test_a_run_of_a_machine_with_a_gpu_is_read_on_one_without(tmp_path, folder, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    (tmp_path / "metrics.jsonl").write_text((folder / "metrics.jsonl").read_text())
    written = (folder / "config.yaml").read_text().replace("device: auto", "device: cuda")
    (tmp_path / "config.yaml").write_text(written.replace("liger: false", "liger: true"))
    assert runs.read(tmp_path).config.device == "cuda"


def test_a_lost_file_of_token_records_is_named(folder, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "tokens" / "step_000002.parquet").unlink()
    run = runs.read(copy)
    with pytest.raises(RunError, match="has no file of step 2"):
        run.tokens()
    assert set(run.tokens(1)["step"]) == {1}


def test_the_distance_that_a_steps_updates_reached_is_weighed_by_how_tokens_were_kept():
    """Two tokens with r − 1 − log r = d₁, d₂, kept with probability 1 and 1/4: (d₁ + 4 d₂) / 5."""

    class Records:
        def tokens(self):
            return pd.DataFrame({"step": [1, 1, 2], "ratio": [2.0, 0.5, 1.0], "sampled": [1.0, 0.25, 1.0]})

    first, second = 1 - math.log(2), -0.5 + math.log(2)
    assert phase.distances_of(Records()).tolist() == pytest.approx([(first + 4 * second) / 5, 0])


def test_scores_by_rate_have_a_dot_a_run_beside_their_rate():
    rows = [("grpo", 1e-5, 10, 0.5, 0.9), ("grpo", 1e-5, 10, 0.6, 0.8), ("dgpo", 2e-5, 20, 0.3, 0.4)]
    found = pd.DataFrame(rows, columns=["method", "lr", "step", "avg@8", "pass@8"])
    figure = run_plots.by_rate(found)
    assert [ax.get_title() for ax in figure.axes] == [
        f"{s} after {n} steps" for n in (10, 20) for s in ("avg@8", "pass@8")
    ]
    dots = [line for line in figure.axes[1].lines if len(line.get_xdata())]
    assert [list(line.get_ydata()) for line in dots] == [[0.9, 0.8]]
    assert dots[0].get_xdata() == pytest.approx(1e-5, rel=0.1)
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["GRPO", "DGPO"]
