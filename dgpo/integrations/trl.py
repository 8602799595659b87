"""TRL's GRPOTrainer with any method of dgpo: `GRPOTrainer(..., method="dgpo", method_params={"n": 2})`.

TRL does everything but the weight: generation, rewards, vLLM and its correction, PEFT, KL, entropy bonus, aggregation
(`loss_type`). With r = π/π_old and no clipping its gradient is −A·r·∇log π, so the adapter hands it A·w_log/r for A.
"""

from pathlib import Path
from typing import Any

import torch

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

    method          a key with its `method_params`, or a Method; replaces GRPOConfig's epsilon, epsilon_high and delta
    token_records   a new folder for records of tokens, which notebook 7 reads (`dgpo.integrations.records`)
    record_share    of the tokens inside the trust region, 8 times that outside

    Raises ConfigError for a `loss_type` not in AGGREGATIONS and for a setting of clipping, which would have no effect.
    """

    def __init__(
        self,
        *args: Any,
        method: str | Method = "dgpo",
        method_params: dict[str, Any] | None = None,
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
        self._learning: dict[str, Any] | None = None

    def _compute_loss(self, model, inputs):
        self._learning = inputs = dict(inputs)
        self._advantages = inputs.pop("advantages")  # TRL must not see them before the weights
        try:
            return super()._compute_loss(model, inputs)
        except KeyError as error:
            if error.args != ("advantages",):
                raise
            raise moved("trl", TESTED, "GRPOTrainer._compute_loss reads the advantages before log π") from None
        finally:
            self._learning = None

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any):
        out = super()._get_per_token_logps_and_entropies(*args, **kwargs)
        if (given := self._learning) is None:  # of the old policy or of the reference
            return out
        logp, entropy = out[:2]
        advantage = self._advantages.reshape(len(logp), -1)
        mask = given["completion_mask"] * given.get("tool_mask", 1)
        old_logp = given.get("old_per_token_logps", logp)
        scaled, shifted, w_log = as_ratio_loss(logp, old_logp, advantage, mask, self.method)
        given |= {"advantages": scaled, "old_per_token_logps": shifted}
        if self.records and self.model.training:
            step, micro = divmod(self._step, self.args.steps_per_generation * self.num_iterations)
            update = micro // self.current_gradient_accumulation_steps
            self.records.add(step + 1, update, logp, old_logp, advantage, mask, w_log, given["completion_ids"], entropy)
        return out
