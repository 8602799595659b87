"""prime-rl's custom loss with any method of dgpo.

    [trainer.loss]
    type = "custom"
    import_path = "dgpo.integrations.prime_rl.loss"

    [trainer.loss.kwargs]
    method = "dgpo"
    n = 2

prime-rl passes one sequence at a time and divides the sum by the tokens of the whole batch (token-mean). Its old
policy is the sampler.
"""

import functools
from typing import Any

from dgpo.integrations.common import hook, make_method, token_loss
from dgpo.integrations.records import TokenRecords

TESTED = "559b447 of 2026-08-21"
_CALLS = 1024  # the loss does not know its step: this many sequences make a step of the records
_LOSS = "prime_rl.trainer.rl.loss"
_fields = ("trainer_logprobs", "inference_logprobs", "advantages", "loss_mask", "loss_weights")
LossInputs = hook("prime-rl", TESTED, f"{_LOSS}:LossInputs", *_fields)
LossOutputs = hook("prime-rl", TESTED, f"{_LOSS}:LossOutputs", "loss", "metrics")

_made = functools.cache(lambda method, params: make_method(method, dict(params)))
_records = functools.cache(TokenRecords)


def loss(inputs: LossInputs, method: str = "dgpo", token_records: str | None = None, **params: Any) -> LossOutputs:
    """The loss of one sequence, `[T]`; `params` are the method's, `token_records` is a new folder."""
    made = _made(method, tuple(sorted(params.items())))
    sequence = (inputs.trainer_logprobs, inputs.inference_logprobs, inputs.advantages, inputs.loss_mask)
    logp, old_logp, advantage, mask = (x[None] for x in sequence)
    term, w_log = token_loss(logp, old_logp, advantage, mask, made)
    if token_records:
        records = _records(token_records, made)
        step, update = divmod(records.calls, _CALLS)
        records.add(step + 1, update, logp, old_logp, advantage, mask, w_log)
    if inputs.loss_weights is not None:
        term = term * inputs.loss_weights
    return LossOutputs(loss=term.sum(), metrics={"w_log_max": w_log.abs().max()})
