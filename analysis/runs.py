"""Read the folder of a run: its settings, metrics, token records, completions and summary."""

import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import style
from dgpo import config as configs
from dgpo.config import Config
from dgpo.methods import Method
from dgpo.plain import path_text
from dgpo.run.rows import read_rows


class RunError(ValueError):
    """The folder is not a run, or a part of it is missing; the message names both."""


@dataclass(frozen=True)
class Run:
    """One run. `metrics` has a row for each step, where step 0 is the evaluation before training; `config` is the
    resolved one."""

    path: Path
    config: Config
    metrics: pd.DataFrame

    @property
    def folder(self) -> Path:
        return self.path

    @property
    def policy(self) -> Path:
        """The trained policy, a folder for `transformers`, dgpo.evaluate and model=. Raises RunError before the end."""
        path = self.path / "policy"
        if not path.exists():
            raise RunError(f"{self.path} has no policy yet: the run has not finished")
        return path

    @property
    def method(self) -> Method:
        return self.config.make_method()

    @property
    def steps(self) -> pd.DataFrame:
        """The rows of training steps."""
        return self.metrics[self.metrics["step"] > 0]

    @property
    def evaluations(self) -> pd.DataFrame:
        """The rows of steps with an evaluation on the held-out problems."""
        return self.metrics[self.metrics[f"eval/avg@{self.config.eval_samples}"].notna()]

    @property
    def summary(self) -> dict:
        path = self.path / "summary.json"
        if not path.exists():
            raise RunError(f"{self.path} has no summary.json: the run has not finished")
        return json.loads(path.read_text())

    def tokens(self, steps: int | None = None, required: bool = True) -> pd.DataFrame:
        """The sampled token records of the first `steps` steps, or of all: see `dgpo.run.telemetry.TokenStats`.

        Raises RunError if there are none (without `required`, the frame is empty instead), and if the file of a step
        is lost.
        """
        files = sorted(self.path.glob("tokens/step_*.parquet"))[:steps]
        found = {int(file.stem.removeprefix("step_")) for file in files}
        if lost := sorted(set(self.steps["step"][:steps]) - found) if files else []:
            raise RunError(f"{self.path}/tokens has no file of step {lost[0]:g}: restore it from a copy of the run")
        frames = [frame for f in files if len(frame := pd.read_parquet(f))]
        if not frames and not required:
            return pd.DataFrame(columns=["step", "advantage", "ratio", "prob", "region", "w_log", "w_prob", "sampled"])
        if not frames:
            raise RunError(f"{self.path} has no token records: it ran with token_records={self.config.token_records}")
        return pd.concat(frames, ignore_index=True)

    def completions(self) -> pd.DataFrame:
        """Held-out problems with their first completion in every evaluation: step prompt answer completion reward."""
        return pd.DataFrame(read_rows(self.path / "completions.jsonl"))

    def plot_learning(self) -> Figure:
        """Reward, held-out accuracy, entropy and KL over the steps."""
        from analysis import run_plots

        return run_plots.learning_curves(self)

    def plot_weights(self) -> Figure:
        """The weight of each sampled token on ∇log π and on ∇π, against its ratio and probability (figure 4)."""
        from analysis import run_plots

        return run_plots.weight_scatter(self.tokens(required=False), self.method)

    def plot_regions(self) -> Figure:
        """The share of tokens in each region, and of the weight on ∇π that they carry."""
        from analysis import run_plots

        return run_plots.region_shares(self)


def read(path: str | Path) -> Run:
    """The run in a folder. Raises RunError if there is none."""
    path = Path(path_text(path))
    for name in ("config.yaml", "metrics.jsonl"):
        if not (path / name).exists():
            raise RunError(f"{path} is not the folder of a run: it has no {name}")
    rows = read_rows(path / "metrics.jsonl")
    if not rows:
        raise RunError(f"{path}/metrics.jsonl has no rows yet")
    return Run(path, configs.read_run(path / "config.yaml"), pd.DataFrame(rows).apply(pd.to_numeric))


def before_after(run: Run, count: int = 4) -> pd.DataFrame:
    """The first `count` held-out problems, with a completion before the first step and one after the last."""
    frame = run.completions()
    frame["completion"] = frame["completion"] + frame["reward"].map(lambda r: "   ✓" if r >= 1 else "   ✗")
    first, last = (
        frame[frame["step"] == s].head(count).reset_index(drop=True) for s in frame["step"].agg(["min", "max"])
    )
    return pd.DataFrame(
        {
            "problem": first["prompt"],
            "answer": first["answer"],
            f"before (step {frame['step'].min()})": first["completion"],
            f"after (step {frame['step'].max()})": last["completion"],
        }
    )


def no_signal(run: Run) -> str:
    """If no group of completions had unequal rewards: what that means and what to try, in Markdown; else ""."""
    steps, test = run.steps, run.evaluations.iloc[0]
    silent = steps["groups/zero_variance"] == steps["groups"] if len(steps) else pd.Series([False])
    if not silent.all() or (steps["max_w_log/applied"].fillna(0) > 0).any():  # without a baseline equal rewards act too
        return ""
    reward, k = steps["reward/mean"].mean(), run.config.eval_samples
    if steps["reward/mean"].max() == 0:
        tries = [
            "problems that the model solves now and then: before training it solved "
            f"{test[f'eval/pass@{k}']:.0%} of the held-out ones in {k} tries",
            "more `completions` of each problem, so that one of them is right",
        ]
        if (cut := steps["truncated"].mean()) > 0.1:
            tries.append(
                f"a larger `max_new_tokens`: {cut:.0%} of the completions were cut off before they had an answer"
            )
        if run.config.task == "math":
            tries.append("`python -m dgpo data check` on the file: with a wrong `answer_field` nothing is ever right")
    elif steps["reward/mean"].min() == 1:
        tries = ["harder problems: these are solved already"]
    else:
        tries = ["more `completions` of each problem, or a higher `temperature`, so that they differ"]
    return (
        f"**The rewards taught nothing.** In each of the {len(steps)} steps all completions of a problem had the same "
        f"reward (mean {reward:.2f}). A group without unequal rewards has no better and no worse completion: its "
        "advantages are 0, and so is the gradient of its reward. What to try:\n\n"
    ) + "\n".join(f"- {one}" for one in tries)


def numbers(run: Run) -> pd.Series:
    """The numbers of a finished run as a table: accuracy with its interval, spread, weights, cost."""
    summary, k = run.summary, run.config.eval_samples
    steps = run.steps

    def accuracy(when, name):
        row = summary[when]
        mean, low, high = (row[f"eval/{name}@{k}{end}"] for end in ("", "_low", "_high"))
        return f"{mean:.3f}  [{low:.3f}, {high:.3f}]"

    table = {"method": summary["method"], "steps": summary["steps"], "seed": summary["seed"]}
    for name in ("avg", "pass"):
        for when in ("before", "after"):
            table[f"held-out {name}@{k} {when}, 95 % interval"] = accuracy(when, name)
    if len(steps):
        applied = "/applied" if "max_w_log/applied" in steps else ""  # older runs did not record these apart
        where = " of a token with A ≠ 0" if applied else ", also of tokens with A = 0"
        table |= {
            "entropy of a token, first → last step (nats)": _first_last(steps["entropy"]),
            "tokens outside the trust region, first → last step": _first_last(1 - steps["tokens/IN"], ".2%"),
            "ratio π/π_old, smallest and largest": f"{steps['ratio/min'].min():.3g}, {steps['ratio/max'].max():.3g}",
            f"largest weight on ∇log π{where}": f"{steps[f'max_w_log{applied}'].max():.3g}",
            f"largest weight on ∇π{where}": f"{steps[f'max_w_prob{applied}'].max():.3g}",
            "largest gradient norm before clipping": f"{steps['grad_norm/max'].max():.3g}",
        }
        if "kl/reference" in steps:
            table["KL to the start, last step (nats a token)"] = f"{steps['kl/reference'].iloc[-1]:.3f}"
    table |= {
        "wall seconds": ", ".join(f"{name} {spent:.0f}" for name, spent in summary["seconds"].items() if spent >= 0.5),
        "CPU seconds of the process": summary["cpu_seconds"],
        "peak memory (GB)": summary["peak_memory_gb"],
    }
    return pd.Series(table, name=str(run.path))


def save_figure(run: Run, name: str, figure: Figure) -> Figure:
    """Write a figure to `figures/NAME.png` of the run folder, and return it."""
    style.save(run.path, {name: figure}, bbox_inches="tight", dpi=150)
    return figure


def _first_last(column: pd.Series, form: str = ".3f") -> str:
    return f"{column.iloc[0]:{form}} → {column.iloc[-1]:{form}}"
