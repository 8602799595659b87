"""Which words does a method weigh? The token records of a language model's run, read as text.

    keep(runs.read("runs/smollm2/dgpo"), "docs/results/smollm2/dgpo")     what the pictures need, without the policy
    largest(run)                                                          the tokens of the largest weights, in context

A run with `token_records` at or above the tokens of a step has all of them, so that a completion can be put together
again. `keep` writes beside them what each token id says, for readers without the tokenizer.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs import Run, RunError
from dgpo import config as configs
from dgpo.model.loading import load_tokenizer

_WORDS = "words.json"
_SHOWN = ["step", "region", "before", "token", "after", "advantage", "old π", "ratio", "w_log", "w_prob"]


def keep(run: Run, folder: str | Path, every: int = 10, model: str | None = None) -> Path:
    """Copy a run without checkpoints and policy; token records of steps 1, 1 + `every`, ... and the last.

    model     what the copy's settings give as its model, where the run's own path means nothing elsewhere
    """
    folder = Path(folder)
    (folder / "tokens").mkdir(parents=True, exist_ok=True)
    update = {"run_dir": str(folder)} | ({"model": model} if model else {})
    configs.dump(run.config.model_copy(update=update), folder / "config.yaml")
    for name in ("metrics.jsonl", "completions.jsonl"):
        shutil.copyfile(run.path / name, folder / name)
    last, tokens = int(run.steps["step"].max()), set()
    for step in map(int, run.steps["step"]):
        frame = pd.read_parquet(run.path / f"tokens/step_{step:06d}.parquet")
        frame = frame if (step - 1) % every == 0 or step == last else frame[:0]
        tokens |= set(frame.get("token", ()))
        frame.to_parquet(folder / f"tokens/step_{step:06d}.parquet", compression="zstd", index=False)
    tokenizer = load_tokenizer(run.policy if (run.path / "policy").exists() else run.config.model)
    words = {int(token): tokenizer.decode([token]) for token in sorted(tokens)}
    (folder / _WORDS).write_text(json.dumps(words, ensure_ascii=False), "utf-8")
    return folder


def words(run: Run) -> dict[int, str]:
    """What each token id of a kept run says. Raises RunError for a folder that `keep` did not write."""
    path = run.path / _WORDS
    if not path.exists():
        raise RunError(f"{run.path} has no {_WORDS}: analysis.run_words.keep writes it")
    return {int(token): word for token, word in json.loads(path.read_text("utf-8")).items()}


def largest(run: Run, count: int = 8, region: str | None = None, around: int = 12) -> pd.DataFrame:
    """The tokens of the largest |A w_prob|, the factor of ∇π, with `around` tokens of their completion on each side."""
    frame = _acting(run)
    every, says = frame.set_index(["step", "update", "sequence"]).sort_index(), words(run)
    chosen = frame if region is None else frame[frame["region"] == region]
    chosen = chosen.assign(size=(chosen["advantage"] * chosen["w_prob"]).abs()).nlargest(count, "size")
    rows = []
    row: Any
    for row in chosen.itertuples():
        own = every.loc[[(row.step, row.update, row.sequence)]].sort_values("position")
        near = own[(own["position"] - row.position).abs() <= around]
        before, after = near[near["position"] < row.position], near[near["position"] > row.position]
        text = ["".join(says[t] for t in part["token"]) for part in (before, after)]
        numbers = [row.advantage, np.exp(row.old_logp), row.ratio, row.w_log, row.w_prob]
        rows.append([row.step, row.region, text[0], says[row.token], text[1], *numbers])
    return pd.DataFrame(rows, columns=_SHOWN)


def by_word(run: Run, region: str, count: int = 8) -> pd.DataFrame:
    """The words of a region: how many tokens, their share of the region's |A w_prob|, the median π when sampled."""
    frame = _acting(run)
    frame = frame[frame["region"] == region]
    frame = frame.assign(word=frame["token"].map(words(run)), size=(frame["advantage"] * frame["w_prob"]).abs())
    grouped = frame.groupby("word")
    table = pd.DataFrame(
        {
            "tokens": grouped.size(),
            "share of |A·w_prob|": grouped["size"].sum() / max(frame["size"].sum(), 1e-300),
            "median old π": np.exp(grouped["old_logp"].median()),
        }
    )
    return table.sort_values("tokens", ascending=False).head(count)


def _acting(run: Run) -> pd.DataFrame:
    """The token records whose advantage is not 0."""
    frame = run.tokens()
    return frame[frame["advantage"] != 0]
