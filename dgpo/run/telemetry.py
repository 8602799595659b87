"""What a step records: the metrics of its tokens by region, a sample of token records, and its seconds."""

import math
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from dgpo.batch import Scored
from dgpo.distributed import process_group
from dgpo.methods import REGIONS, Method

_LARGEST = 650.0  # nats: larger values are recorded as e^650, so that sums stay finite
_OUTSIDE = 8.0  # a token outside the trust region is recorded with so many times the probability


class TokenStats:
    """Collects the live tokens of every update of one step.

    Shares are of the sums over the step's updates of |A·w_log| and |A·w_prob|, w_prob = w_log/π, in float64, since
    1/π overflows float32. `records` is a random sample: the share `sample` / `expected` of the tokens inside the trust
    region, and 8 times that share of the rarer ones outside, where methods differ.
    """

    def __init__(self, method: Method, sample: float, expected: int, generator: torch.Generator):
        self.method, self.generator = method, generator
        self.rate = min(1.0, sample / max(expected, 1))
        self.tokens, self.w_log, self.w_prob = (torch.zeros(len(REGIONS), dtype=torch.float64) for _ in range(3))
        self.ratio_min, self.ratio_max, self.ratio_sum = math.inf, 0.0, 0.0
        self.max_w_log, self.max_w_prob = 0.0, 0.0
        self.applied_w_log, self.applied_w_prob = 0.0, 0.0  # where the advantage is not 0
        self.parts: list[dict[str, Tensor]] = []

    def add(self, update: int, batch: Scored, logp: Tensor, w_log: Tensor) -> None:
        """One micro-batch of the step's `update`-th optimizer step, with its log-probabilities and weights `[B, T]`."""
        batch, logp, w_log = batch.to("cpu"), logp.detach().cpu(), w_log.cpu()
        live = batch.mask
        if not live.any():
            return
        new, old, advantage = (torch.where(live, x, 0) for x in (logp, batch.old_logp, batch.advantage.expand_as(live)))
        region = self.method.regions(new, old, advantage, live).code[live]
        new, old, advantage = (x[live].double() for x in (new, old, advantage))
        weight = w_log[live].double()
        w_prob = weight.sign() * torch.exp((weight.abs().log() - new).clamp(max=_LARGEST))
        self.tokens += torch.bincount(region, minlength=len(REGIONS))
        self.w_log += torch.bincount(region, (advantage * weight).abs(), len(REGIONS))
        self.w_prob += torch.bincount(region, (advantage * w_prob).abs(), len(REGIONS))
        ratio = torch.exp((new - old).clamp(max=_LARGEST))
        self.ratio_min = min(self.ratio_min, float(ratio.min()))
        self.ratio_max = max(self.ratio_max, float(ratio.max()))
        self.ratio_sum += float(ratio.sum())
        self.max_w_log = max(self.max_w_log, float(weight.abs().max()))
        self.max_w_prob = max(self.max_w_prob, float(w_prob.abs().max()))
        applied = advantage != 0
        self.applied_w_log = max(self.applied_w_log, float((weight * applied).abs().max()))
        self.applied_w_prob = max(self.applied_w_prob, float((w_prob * applied).abs().max()))
        rate = torch.where(region == REGIONS.index("IN"), self.rate, min(1.0, _OUTSIDE * self.rate))
        kept = torch.rand(len(new), generator=self.generator) < rate
        sequence, position = (i[kept] for i in live.nonzero(as_tuple=True))
        self.parts.append(
            {
                "update": torch.full_like(sequence, update),
                "sequence": batch.sequence_id[sequence],
                "position": position,
                "token": batch.completion[live][kept],
                "logp": new[kept],
                "old_logp": old[kept],
                "ratio": ratio[kept],
                "prob": new[kept].exp(),
                "advantage": advantage[kept],
                "region": region[kept],
                "w_log": weight[kept],
                "w_prob": w_prob[kept],
                "entropy": batch.entropy[live][kept],
                "sampled": rate[kept],
            }
        )

    def metrics(self) -> dict[str, float | None]:
        """Ratio spread, the largest weights, and each region's fraction of tokens and shares of the weight sums.

        `.../applied` is the largest weight of a token whose advantage is not 0; on others a weight has no effect.
        Over the tokens of all ranks; None throughout for a step without tokens.
        """
        sums = process_group.all_reduce_sum(torch.stack([self.tokens, self.w_log, self.w_prob]))
        ratio_sum = float(process_group.all_reduce_sum(torch.tensor(self.ratio_sum, dtype=torch.float64)))
        weights = (self.max_w_log, self.max_w_prob, self.applied_w_log, self.applied_w_prob)
        extremes = torch.tensor([-self.ratio_min, self.ratio_max, *weights], dtype=torch.float64)
        low, high, *weights = process_group.all_reduce_max(extremes).tolist()
        tokens = float(sums[0].sum())
        spread = (-low, ratio_sum / max(tokens, 1), high, *weights)
        largest = ("max_w_log", "max_w_prob", "max_w_log/applied", "max_w_prob/applied")
        names = ("ratio/min", "ratio/mean", "ratio/max", *largest)
        out: dict[str, float | None] = dict(zip(names, spread if tokens else [None] * len(names), strict=True))
        for name, row in zip(("tokens", "w_log", "w_prob"), sums, strict=True):
            shares = row / row.sum() if row.sum() > 0 else row
            out |= {f"{name}/{r}": float(share) if tokens else None for r, share in zip(REGIONS, shares, strict=True)}
        return out

    def records(self, step: int, all_ranks: bool = True) -> pd.DataFrame:
        """The sampled tokens of all ranks, or of this one, one a row: `region` by name, `entropy` of the sampling
        policy, and `sampled`, the probability with which the row was kept (weight rows by 1/sampled for the
        distribution of all tokens)."""
        gathered = process_group.all_gather_object(self.parts) if all_ranks else [self.parts]
        parts = [part for own in gathered for part in own]
        if not parts:
            return pd.DataFrame()
        columns = {k: torch.cat([p[k] for p in parts]).cpu().numpy() for k in parts[0]}
        columns["region"] = np.array(REGIONS)[columns["region"]]
        frame = pd.DataFrame({"step": step, **columns})
        floats = frame.select_dtypes("float64").columns.difference(["w_prob"])  # 1/π leaves float32's range
        return frame.astype(dict.fromkeys(floats, "float32") | {"step": "int32", "update": "int32"})


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether it is torch's, or that of vLLM's allocator: `CUDA Error: out of memory at …/cumem_allocator.cpp:62`."""
    said = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or ("cuda error" in said and "out of memory" in said)


class PhaseTimer:
    """Wall time by phase; a phase may be entered many times.

    out_of_memory    (phase, the out-of-memory error of torch or vLLM) → the error to raise in its place
    """

    def __init__(self, out_of_memory: Callable[[str, Exception], Exception]):
        self._spent: dict[str, float] = defaultdict(float)
        self._out_of_memory = out_of_memory

    @contextmanager
    def phase(self, name: str):
        start = time.perf_counter()
        try:
            with process_group.error_scope(name):
                yield
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(name, error) from error
        finally:
            self._spent[name] += time.perf_counter() - start

    def take(self) -> dict[str, float]:
        """`seconds/<phase>` since the last call: the only metrics in which two identical runs differ."""
        spent, self._spent = self._spent, defaultdict(float)
        return {f"seconds/{name}": round(seconds, 4) for name, seconds in spent.items()}
