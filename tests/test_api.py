"""The front door: what `import dgpo` offers, and what that costs."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import yaml
from running import SMALL

import dgpo
from dgpo import objective
from dgpo.errors import ConfigError


def python(script):
    env = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}  # as a run here leaves it
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_brings_no_library_along():
    assert (
        python(
            "import sys; before = {*sys.modules}; import dgpo; dir(dgpo)\n"
            "print(sorted({name.partition('.')[0] for name in {*sys.modules} - before} - sys.stdlib_module_names))"
        ).strip()
        == "['dgpo']"
    )


def test_the_trainer_changes_nothing_on_import_and_brings_only_what_a_run_of_the_default_uses():
    assert (
        python(
            "import logging, os, sys, warnings, dgpo.trainer\n"
            "assert 'DS_ACCELERATOR' not in os.environ and not logging.getLogger('DeepSpeed').level\n"
            "assert not [entry for entry in warnings.filters if 'distributed' in str(entry)]\n"
            "unused = ['dgpo.' + name for name in ('plan', 'cards', 'shapes', 'data', 'rollout.vllm')]\n"
            "unused += ['dgpo.verifier.pool', 'deepspeed']\n"
            "print([name for name in unused if name in sys.modules])"
        ).strip()
        == "[]"
    )


def test_every_name_is_there_and_an_unknown_one_lists_them():
    for name in dgpo.__all__:
        assert getattr(dgpo, name) is not None
        assert name in dir(dgpo)
    with pytest.raises(AttributeError, match=r"no attribute 'trian'; it has .* train"):
        _ = dgpo.trian


def test_without_the_package_analysis_pictures_say_so():
    assert "needs the package `analysis`" in python(
        "import sys; sys.modules['analysis'] = None\nimport dgpo\n"
        "try:\n    dgpo.plot('dgpo')\nexcept dgpo.ConfigError as error:\n    print(error)"
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return dgpo.train("tiny", **SMALL, run_dir=tmp_path_factory.mktemp("api") / "run", n=2)


def test_train_returns_the_run_with_its_metrics_and_pictures(run):
    assert run.method == dgpo.methods.get("dgpo", n=2)
    assert run.metrics["step"].tolist() == [0, 1, 2, 3, 4]
    assert {"ratio", "w_prob"} <= set(run.tokens().columns)
    for figure in (run.plot_learning(), run.plot_weights(), run.plot_regions()):
        assert figure.axes
    assert dgpo.read_run(run.folder).metrics.equals(run.metrics)
    with pytest.raises(ConfigError, match="resume=True"):
        dgpo.train("tiny", **SMALL, run_dir=run.folder)


def test_evaluate_prints_its_table_and_compares(run, tmp_path):
    sizes = {"difficulty": 1, "generated_problems": 4, "generated_max_new_tokens": 14, "n": 2}
    first, second = (dgpo.evaluate(run.policy, **sizes, seed=s, eval_dir=tmp_path / str(s)) for s in (0, 1))
    assert first.samples["chain"].verdicts.shape == (4, 2)
    assert "avg@2" in str(first)
    assert "chain" in first.minus(second)


def test_sweep_trains_what_its_file_says(tmp_path):
    small = {k: v for k, v in SMALL.items() if k != "steps"} | {"steps": 1, "checkpoint_every": 0}
    fields = {"name": "s", "settings": small, "factors": {"method": ["dgpo", "grpo"]}, "seeds": [0]}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(fields))
    results = dgpo.sweep(tmp_path / "s.yaml", folder=tmp_path / "out")
    assert {run.name for run in results.sweep.runs()} == {"method=dgpo seed 0", "method=grpo seed 0"}
    assert (tmp_path / "out" / "report.md").exists()


def test_plot_draws_the_weights_that_methods_give():
    figure = dgpo.plot("dgpo", "grpo", n=2, pi_old=0.1)
    r = np.geomspace(0.02, 0.7, 5)
    drawn = [line.get_xydata() for ax in figure.axes for line in ax.lines if len(line.get_xdata()) > 20]
    logp = torch.tensor(r * 0.1).log()[:, None]
    w = dgpo.methods.get("dgpo", n=2).weight(logp, torch.full_like(logp, np.log(0.1)), torch.tensor(-1.0))[:, 0]
    assert any(np.allclose(np.exp(np.interp(np.log(r), *np.log(line.clip(1e-300)).T)), w, rtol=0.02) for line in drawn)
    with pytest.raises(ValueError, match="no method here has a parameter power"):
        dgpo.plot("dgpo", power=2)


class TestRegister:
    def test_it_makes_the_dataclass(self):
        @dgpo.register("halved")
        class Halved(dgpo.Method):
            power: float = 0.5

            def weight(self, logp, old_logp, advantage, mask=None):
                return (self.power * (logp - old_logp)).exp()

        logp = torch.tensor([[-1.0, -2.0]])
        w = dgpo.methods.get("halved", power=2).weight(logp, torch.zeros(1, 2), 1.0)
        torch.testing.assert_close(w, (2 * logp).exp())
        assert Halved() == Halved(power=0.5)
        with pytest.raises(ValueError, match="power='x' must be"):
            dgpo.methods.get("halved", power="x")

    def test_another_class_is_refused(self):
        with pytest.raises(TypeError, match=r"must be a subclass of dgpo\.Method"):
            dgpo.register("not_one")(object)


@pytest.mark.parametrize("method", ["dgpo", "grpo", "gspo"])
def test_policy_loss_has_the_gradient_of_the_trainer(method):
    """∂loss/∂log π_t = −c_t · A_t · w_log,t, with c_t = 1/tokens for token-mean."""
    generator = torch.Generator().manual_seed(0)
    logp = -torch.rand(3, 5, generator=generator, dtype=torch.float64).mul(3)
    old = logp + torch.randn(3, 5, generator=generator, dtype=torch.float64) * 0.5
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]])
    advantage = torch.tensor([1.0, -1.0, 0.5], dtype=torch.float64)
    logp.requires_grad_()
    dgpo.policy_loss(logp, old, advantage, mask, method).backward()
    made = dgpo.methods.get(method)
    c = objective.loss_weights(mask.bool(), made.aggregation).double()
    expected = -c * advantage[:, None] * made.weight(logp.detach(), old, advantage[:, None], mask)
    torch.testing.assert_close(logp.grad, expected)
    with pytest.raises(ValueError, match="has no parameter nn"):
        dgpo.policy_loss(logp, old, advantage, mask, "dgpo", nn=2)
    with pytest.raises(ValueError, match=r"of one shape \[sequences, tokens\], not logp \[3\], mask \[3\]"):
        dgpo.policy_loss(torch.zeros(3), torch.zeros(3), torch.zeros(3), torch.ones(3))
