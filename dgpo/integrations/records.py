"""Token records of a run in another trainer: a folder that `analysis.runs.read` and notebook 7 read."""

import atexit
from pathlib import Path

import torch
from torch import Tensor

from dgpo import config
from dgpo.batch import Scored
from dgpo.distributed import process_group
from dgpo.errors import ConfigError
from dgpo.files import atomic_write
from dgpo.methods import Method
from dgpo.run import rows
from dgpo.run.telemetry import TokenStats


class TokenRecords:
    """Writes `tokens/step_*.parquet` with the columns of `dgpo.run.telemetry.TokenStats`, and the method's settings.

    folder   a new or an empty one
    share    of the tokens inside the trust region that is recorded, and 8 times that share of those outside

    Rank 0 records its own tokens; other ranks record nothing. A step's file is written when the next step begins, and
    the last one when the process ends. Raises ConfigError for a folder that is not empty.
    """

    def __init__(self, folder: str | Path, method: Method, share: float = 0.01):
        self.folder, self.method, self.share = Path(folder), method, share
        self.generator = torch.Generator().manual_seed(0)
        self.step, self.calls = 0, 0
        self.stats: TokenStats | None = None
        self.active = process_group.rank() == 0
        if not self.active:
            return
        if self.folder.exists() and any(self.folder.iterdir()):
            raise ConfigError(f"token_records={str(folder)!r} is not empty; give a new folder")
        (self.folder / "tokens").mkdir(parents=True, exist_ok=True)
        settings = config.load(method=method.key, method_params=method.params(), run_dir=str(self.folder))
        config.dump(settings, self.folder / "config.yaml")
        atexit.register(self.flush)

    def add(
        self,
        step: int,
        update: int,
        logp: Tensor,
        old_logp: Tensor,
        advantage: Tensor,
        mask: Tensor,
        w_log: Tensor,
        token: Tensor | None = None,
        entropy: Tensor | None = None,
    ) -> None:
        """One micro-batch `[B, T]` of update `update` of `step`; an unknown token is −1, an unknown entropy NaN."""
        self.calls += 1
        if not self.active:
            return
        if self.stats is None or step != self.step:
            self.flush()
            self.step, self.stats = step, TokenStats(self.method, self.share, 1, self.generator)
        mask = mask.bool()
        token = torch.full_like(mask, -1, dtype=torch.int64) if token is None else token
        unknown = torch.full_like(logp, torch.nan) if entropy is None else entropy
        batch = Scored(
            input_ids=token,
            attention_mask=mask,
            mask=mask,
            rollout_logp=old_logp,
            finished=mask.any(1),
            sequence_id=torch.arange(len(mask)),
            advantage=advantage,
            old_logp=old_logp,
            entropy=unknown,
        )
        self.stats.add(update, batch.replace(**{k: v.detach() for k, v in batch.tensors().items()}), logp, w_log)

    def flush(self) -> None:
        """Write the current step."""
        if self.stats is None:
            return
        records, self.stats = self.stats.records(self.step, all_ranks=False), None
        target = self.folder / "tokens" / f"step_{self.step:06d}.parquet"
        atomic_write(target, lambda scratch: records.to_parquet(scratch, index=False))
        rows.append(self.folder / "metrics.jsonl", [{"step": self.step}])
