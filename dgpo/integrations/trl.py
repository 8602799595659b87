"""TRL's GRPOTrainer with any method of dgpo: `GRPOTrainer(..., method="dgpo", method_params={"n": 2})`.

TRL does everything but the weight: generation, rewards, vLLM and its correction, PEFT, KL, entropy bonus, aggregation
(`loss_type`). With r = π/π_old and no clipping its gradient is −A·r·∇log π, so the adapter hands it A·w_log/r for A.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dgpo.errors import ConfigError
from dgpo.integrations.common import as_ratio_loss, hook, make_method, moved, refuse_unused
from dgpo.integrations.records import TokenRecords
from dgpo.methods import Method

TESTED = "1.16.0"
AGGREGATIONS = ("grpo", "bnpo", "dapo", "dr_grpo", "luspo")  # the names of loss_type that differ in aggregation alone
_UNUSED = {"epsilon": 0.2, "epsilon_high": None, "delta": None, "importance_sampling_level": "token"}

_Base = hook("trl", TESTED, "trl:GRPOTrainer")
hook("trl", TESTED, "trl:GRPOTrainer._compute_loss", "model", "inputs")
hook("trl", TESTED, "trl:GRPOTrainer._get_per_token_logps_and_entropies", "compute_entropy")


class GRPOTrainer(_Base):
    """`trl.GRPOTrainer` with the arguments

    method          a key, or a Method; its clipping replaces `epsilon`, `epsilon_high` and `delta` of the GRPOConfig
    method_params   parameters for a key
    token_records   a new folder for records of tokens, which notebook 7 reads (`dgpo.integrations.records`)
    record_share    of the tokens inside the trust region, 8 times that outside

    `loss_type` of the GRPOConfig is the aggregation: grpo, bnpo, dapo, dr_grpo or luspo. Raises ConfigError for another
    one and for a setting of clipping, which would have no effect.
    """

    def __init__(
        self,
        *args: Any,
        method: str | Method = "dgpo",
        method_params: Mapping[str, Any] | None = None,
        token_records: str | Path | None = None,
        record_share: float = 0.01,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.method = make_method(method, method_params)
        if self.loss_type not in AGGREGATIONS:
            raise ConfigError(f"loss_type={self.loss_type!r} must be one of {', '.join(AGGREGATIONS)}")
        refuse_unused(self.args, _UNUSED, f"method={self.method.key!r}: use method_params")
        self.epsilon_low = self.epsilon_high = torch.inf
        self.records = token_records and TokenRecords(token_records, self.method, record_share)
        self._unweighed: dict[str, Any] | None = None

    def _compute_loss(self, model, inputs):
        inputs = dict(inputs)
        self._unweighed = inputs | {"advantages": inputs.pop("advantages")}  # TRL must not see them before the weights
        self._learning = inputs
        try:
            return super()._compute_loss(model, inputs)
        except KeyError as error:
            if error.args == ("advantages",):
                raise moved("trl", TESTED, "GRPOTrainer._compute_loss reads the advantages before log π") from None
            raise
        finally:
            self._unweighed = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any):
        out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if self._unweighed is not None:
            self._weigh(*out[:2])
        return out

    def _weigh(self, logp: Tensor, entropy: Tensor) -> None:
        given = self._unweighed
        advantage = given["advantages"]
        advantage = advantage[:, None] if advantage.ndim == 1 else advantage
        mask = given["completion_mask"] * given.get("tool_mask", 1)
        old_logp = given.get("old_per_token_logps")
        old_logp = logp if old_logp is None else old_logp
        scaled, shifted, w_log = as_ratio_loss(logp, old_logp, advantage, mask, self.method)
        self._learning |= {"advantages": scaled, "old_per_token_logps": shifted}
        if self.records and self.model.training:
            step, micro = divmod(self._step, self.args.steps_per_generation * self.num_iterations)
            update, seen = micro // self.current_gradient_accumulation_steps, (given["completion_ids"], entropy)
            self.records.add(step + 1, update, logp, old_logp, advantage, mask, w_log, *seen)
