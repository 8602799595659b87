"""What `import dgpo` offers: train, evaluate, sweep, plot. The pictures are drawn by the package `analysis`."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dgpo import methods
from dgpo.errors import ConfigError
from dgpo.objective import loss_weights, surrogate

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from analysis.runs import Run
    from analysis.sweeps import Results
    from dgpo.evaluation.scores import Samples


def train(recipe: str | PathLike = "tiny", **settings: Any) -> "Run":
    """Train by a recipe with settings and method parameters; the Run in `run_dir`, whose metrics and figures it has.

    A folder that holds a run is refused, unless resume=True continues it or overwrite=True replaces it. ranks=8 starts
    ranks as child processes (settings: dgpo.launch.settings.Launch); the same call again resumes their run. Raises
    ConfigError for settings that are not allowed, and LaunchError with the error of the rank that failed.
    """
    from dgpo.launch import settings as launch
    from dgpo.launch import start

    return read_run(start.train(*launch.load(recipe, **settings)))


def read_run(folder: str | PathLike) -> "Run":
    """The Run in a folder. Raises RunError where there is none."""
    return _analysis("runs").read(folder)


def evaluate(
    model: str | PathLike, benchmarks: Sequence[str] = ("chain",), ranks: int = 0, **settings: Any
) -> "Evaluation":
    """Sample and judge n completions of each problem; avg@k and pass@k with intervals, see `Evaluation`.

    `model` is a checkpoint's folder, such as `run.policy`. The completions are kept in `eval_dir`, and the same call
    continues an evaluation that was interrupted. ranks=8 starts so many ranks on this machine, which share the files of
    completions. Raises ConfigError for settings that are not allowed, and LaunchError with the error of a rank.
    """
    from dgpo.evaluation import settings as evaluation
    from dgpo.launch import evaluations

    config = evaluation.load(model=model, benchmarks=list(benchmarks), **settings)
    return Evaluation(evaluations.evaluate(config, ranks))


@dataclass(frozen=True)
class Evaluation:
    """The folder of an evaluation: printed, it is its table; `samples` are the judged completions by benchmark."""

    folder: Path

    @property
    def samples(self) -> "dict[str, Samples]":
        from dgpo.evaluation import run

        return {samples.benchmark: samples for samples in run.read(self.folder)}

    def minus(self, other: "Evaluation") -> str:
        """The paired differences on the problems that both have, with intervals and p-values."""
        from dgpo.evaluation import report

        return report.differences(self.folder, other.folder)

    def __str__(self) -> str:
        from dgpo.evaluation import report

        return report.table(self.folder)

    __repr__ = __str__


def sweep(file: str | PathLike, jobs: int = 1, **overrides: Any) -> "Results":
    """Train every cell of a sweep with every seed, as far as they are missing; its Results.

    Writes the table and the report into the sweep's folder. Raises ConfigError for a sweep that no run can be made of.
    """
    from dgpo.sweeps import definition, execute, report, table

    made = definition.load(file, **overrides)
    execute.execute(made, jobs)
    report.write(made, table.collect(made))
    return _analysis("sweeps").read(made.folder)


def plot(*method_names: "str | methods.Method", pi_old: float = 0.05, **params: Any) -> "Figure":
    """The weight of each method on ∇log π and on ∇π against the ratio π/π_old, for good and bad tokens.

    `method_names` are keys, or methods with parameters of their own; by default the paper's six. `params` go to those
    methods that have them. Raises ValueError for an unknown key, and for a parameter that none of them has.
    """
    chosen = [_method(m, params) for m in method_names or methods.PAPER]
    if unused := params.keys() - {name for m in chosen for name in m.params()}:
        raise ValueError(f"no method here has a parameter {', '.join(sorted(unused))}")
    return _analysis("plots").method_curves(chosen, pi_old)


def policy_loss(
    logp: Tensor,
    old_logp: Tensor,
    advantage: Tensor,
    mask: Tensor,
    method: "str | methods.Method" = "dgpo",
    loss_aggregation: str = "method",
    length: int | None = None,
    entropy: Tensor | None = None,
    entropy_now: Tensor | None = None,
    **params: Any,
) -> Tensor:
    """The loss of one optimizer batch, for a training loop of your own: −Σ c_t · A_t · sg(w_log,t) · log π_t.

    logp, old_logp     [B, T] log π of the sampled tokens, now (with gradient) and when they were sampled
    advantage          [B] or [B, 1], or [B, T] for one of each token
    mask               [B, T], 1 on completion tokens
    loss_aggregation   one of objective.AGGREGATIONS, or "method" for the one of the method's paper
    length             of loss_aggregation="constant"
    entropy            [B, T] of the policy that sampled, in nats, for a method that needs it
    entropy_now        [B, T] of the policy that is being updated, likewise

    A method with a penalty has that as a second term. The value says nothing; the gradient does. Raises ValueError for
    shapes that do not match.
    """
    made = _method(method, params)
    if unused := params.keys() - made.params().keys():
        known = ", ".join(made.params()) or "none"
        raise ValueError(f"method {made.key!r} has no parameter {', '.join(sorted(unused))}; its parameters: {known}")
    if logp.ndim != 2 or mask.shape != logp.shape:
        shapes = f"logp {list(logp.shape)}, mask {list(mask.shape)}"
        raise ValueError(f"policy_loss needs logp and mask of one shape [sequences, tokens], not {shapes}")
    advantage = advantage[:, None] if advantage.ndim == 1 else advantage
    mask = mask.bool()
    how = made.aggregation if loss_aggregation == "method" else loss_aggregation
    w_log, penalty = made.coefficients(logp.detach(), old_logp.detach(), advantage, mask, entropy, entropy_now)
    return surrogate(logp, w_log, advantage, loss_weights(mask, how, length).to(logp.dtype), penalty)


def _method(method: "str | methods.Method", params: dict[str, Any]) -> methods.Method:
    if not isinstance(method, str):
        return method
    known = methods.get(method).params()
    return methods.get(method, **{name: value for name, value in params.items() if name in known})


def _analysis(module: str):
    try:
        return importlib.import_module(f"analysis.{module}")
    except ModuleNotFoundError as error:
        if error.name not in ("analysis", f"analysis.{module}"):
            raise
        raise ConfigError(
            "this needs the package `analysis`, which comes with dgpo's source: pip install -e ."
        ) from None
