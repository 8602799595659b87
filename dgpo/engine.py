"""DeepSpeed: one optimizer step from the losses of its micro-batches, on a CPU as on a cluster; save and load."""

import logging
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from dgpo import ranks
from dgpo.config import Config
from dgpo.model import Policy

if not torch.cuda.is_available():
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
logging.getLogger("DeepSpeed").setLevel(logging.ERROR)

import deepspeed  # noqa: E402  (it picks its accelerator on import)

_TAG = "engine"


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is NaN or infinite; the optimizer step was not taken."""


class Engine:
    """Owns the policy's training: forward without gradient, optimizer step, checkpoint."""

    def __init__(self, policy: Policy, config: Config):
        self.policy = policy
        _init_deepspeed(policy.device.type)
        optimizer = torch.optim.AdamW(
            policy.parameters(), lr=config.lr, betas=config.betas, weight_decay=config.weight_decay
        )
        self.deepspeed, *_ = deepspeed.initialize(
            model=policy,
            optimizer=optimizer,
            lr_scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(config)),
            config={
                "train_micro_batch_size_per_gpu": 1,  # unused: micro-batches are cut by the caller
                "gradient_accumulation_steps": 1,
                "gradient_clipping": config.grad_clip,
                "zero_optimization": {"stage": config.zero_stage},
                "bf16": {"enabled": config.dtype == "bfloat16"},
                "zero_allow_untested_optimizer": True,
                "steps_per_print": None,
            },
        )
        self._finite = torch.ones((), dtype=torch.bool, device=policy.device)
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.register_hook(self._watch)

    def __call__(self, batch, with_entropy: bool = False) -> tuple[Tensor, Tensor]:
        """(logp, entropy) of a micro-batch, `[B, T]`, with gradient."""
        return self.deepspeed(batch, with_entropy=with_entropy)

    @torch.no_grad()
    def logp(self, batch, parts: list[Tensor], policy: Policy | None = None) -> tuple[Tensor, Tensor]:
        """(logp, entropy) of a whole batch, `[B, T]` on the CPU, by this policy or another one of its kind."""
        logp, entropy = torch.zeros_like(batch.rollout_logp), torch.zeros_like(batch.rollout_logp)
        for rows in parts:
            micro = batch.select(rows)
            part = (policy or self.policy)(micro.to(self.policy.device), with_entropy=True)
            T = micro.mask.shape[1]
            logp[rows, :T], entropy[rows, :T] = (x.cpu() for x in part)
        return logp, entropy

    def update(self, losses: Iterable[Tensor], count: int) -> dict[str, float]:
        """One optimizer step on the sum of `count` losses, each of a micro-batch and made when it is asked for.

        Returns the gradient norm before clipping, and the learning rate used. Raises NonFiniteError, with the weights
        as they were, when a loss or a gradient is NaN or infinite.
        """
        self._finite.fill_(True)
        lr = self.deepspeed.get_lr()[0]
        for i, loss in enumerate(losses):
            self._finite &= loss.detach().isfinite()
            self.deepspeed.set_gradient_accumulation_boundary(i == count - 1)
            # DeepSpeed averages over ranks; the losses of the ranks are parts of one sum.
            self.deepspeed.backward(loss * ranks.size(), scale_wrt_gas=False)
        if ranks.total((~self._finite).float()) > 0:
            self.deepspeed.optimizer.zero_grad()
            raise NonFiniteError("the loss or a gradient is NaN or infinite")
        self.deepspeed.step()
        return {"grad_norm": float(self.deepspeed.get_global_grad_norm()), "lr": lr}

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """(name as in the checkpoint, full tensor) of every parameter of the policy."""
        yield from self.policy.lm.named_parameters()

    def save(self, folder: Path) -> None:
        """Weights, optimizer and schedule, sharded as they are trained."""
        self.deepspeed.save_checkpoint(str(folder), tag=_TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        path, _ = self.deepspeed.load_checkpoint(str(folder), tag=_TAG)
        if path is None:
            raise FileNotFoundError(f"{folder} holds no checkpoint of the engine")

    def _watch(self, gradient: Tensor) -> None:
        # The sum of squares, not the elements: a norm can overflow where no gradient does, and clipping divides by it.
        self._finite &= gradient.float().square().sum().isfinite()


def lr_factor(config: Config):
    """Optimizer step → multiple of `lr`: linear warm-up over `warmup_updates`, then constant or cosine to 0."""
    warmup, total = config.warmup_updates, config.total_updates

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if config.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))

    return factor


def _init_deepspeed(device: str) -> None:
    """Let DeepSpeed take over the process group."""
    if device == "cpu":  # else it compiles shared-memory collectives for minutes, which gloo does without
        vars(deepspeed.ops).setdefault("__compatible_ops__", {})
    deepspeed.init_distributed(
        dist_backend="nccl" if device == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False
    )
