"""Which words does a method weigh? The token records of a language model's run, read as text.

    keep(runs.read("runs/smollm2/dgpo"), "docs/results/smollm2/dgpo")     what the figures need, without the policy
    largest(run)                                                          the tokens with the largest weights, in
    context

A run whose `token_records` covers all tokens of a step allows a completion to be put together again. `keep` also
writes the text of each token id, for readers without the tokenizer.
"""

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.runs import Run, RunError
from dgpo import config as configs
from dgpo.errors import ConfigError
from dgpo.model.loading import load_tokenizer
from dgpo.tasks import task_class

_WORDS = "words.json"
_SHOWN = ["step", "region", "before", "token", "after", "advantage", "old π", "ratio", "w_log", "w_prob"]


def keep(run: Run, folder: str | Path, every: int = 10, model: str | None = None) -> Path:
    """Copy a run without checkpoints and policy; token records of steps 1, 1 + `every`, ... and the last.

    model     model path in the copy's settings, if the run's own path means nothing elsewhere
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
    (folder / _WORDS).write_text(json.dumps(words(run, tokens), ensure_ascii=False), "utf-8")
    return folder


def words(run: Run, tokens: Iterable[int]) -> dict[int, str]:
    """The text of token ids: as `keep` wrote it, or else from the tokenizer of the run's policy or model.

    Raises RunError if there is neither.
    """
    path = run.path / _WORDS
    if path.exists():
        return {int(token): word for token, word in json.loads(path.read_text("utf-8")).items()}
    tokenizer = _tokenizer(run)
    return {int(token): tokenizer.decode([int(token)]) for token in sorted({*tokens})}


def _tokenizer(run: Run):
    if run.config.model == "tiny":
        task: Any = task_class(run.config.task)  # only tasks with an embedded policy have `tokenizer`
        return task.tokenizer()
    try:
        return load_tokenizer(run.policy if (run.path / "policy").exists() else run.config.model)
    except ConfigError as error:
        raise RunError(
            f"{run.path} has neither {_WORDS} nor a tokenizer, so its tokens have no words: {error}"
        ) from None


def largest(run: Run, count: int = 8, region: str | None = None, around: int = 12) -> pd.DataFrame:
    """The tokens with the largest |A w_prob|, the factor of ∇π, with `around` tokens of context on each side."""
    frame = _acting(run)
    says = words(run, frame["token"])
    chosen = frame if region is None else frame[frame["region"] == region]
    chosen = chosen.assign(size=(chosen["advantage"] * chosen["w_prob"]).abs()).nlargest(count, "size")
    rows = []
    row: Any
    for row in chosen.itertuples():
        text = context(frame, row, says, around)
        numbers = [row.advantage, np.exp(row.old_logp), row.ratio, row.w_log, row.w_prob]
        rows.append([row.step, row.region, text[0], says[row.token], text[1], *numbers])
    return pd.DataFrame(rows, columns=_SHOWN)


def context(frame: pd.DataFrame, row, says: dict[int, str], around: int = 12) -> list[str]:
    """[before, after]: the text of the records of `frame` around `row`, from the same update and completion.

    "…" marks tokens that were not recorded.
    """
    own = frame[(frame["step"] == row.step) & (frame["update"] == row.update) & (frame["sequence"] == row.sequence)]
    recorded = {int(p): says[int(t)] for p, t in zip(own["position"], own["token"], strict=True)}
    first, last = max(row.position - around, 0), min(row.position + around, max(recorded))
    spoken = (range(first, row.position), range(row.position + 1, last + 1))
    return [re.sub("\0+", " … ", "".join(recorded.get(p, "\0") for p in places)) for places in spoken]


def by_word(run: Run, region: str, count: int = 8) -> pd.DataFrame:
    """The words of a region: how many tokens, their share of the region's |A w_prob|, the median π when sampled."""
    frame = _acting(run)
    frame = frame[frame["region"] == region]
    frame = frame.assign(
        word=frame["token"].map(words(run, frame["token"])), size=(frame["advantage"] * frame["w_prob"]).abs()
    )
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
