"""DeepSpeed: one optimizer step from the losses of its micro-batches, on a CPU as on a cluster; save and load."""

import functools
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from dgpo.batch import Rollout
from dgpo.config import Config, ConfigError
from dgpo.distributed import process_group
from dgpo.model import lora
from dgpo.model.policy import Policy
from dgpo.run import zero_state

Sequences = TypeVar("Sequences", bound=Rollout)

_PERSISTENT = 100_000  # elements; ZeRO-3 keeps smaller parameters whole on every rank


class NonFiniteError(FloatingPointError):
    """A loss or gradient that is NaN or infinite; the optimizer step was not taken."""


@functools.cache
def load_deepspeed() -> Any:
    """The library, imported on first use: as it is imported it picks its accelerator and begins to log."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    # DeepSpeed's use of the older names of two collectives, told once for every layer
    warnings.filterwarnings("ignore", r".*torch\.distributed\.\w+_tensor` is deprecated", FutureWarning)
    import deepspeed

    return deepspeed


class Engine:
    """The policy under DeepSpeed: forward passes, optimizer steps, checkpoints."""

    def __init__(self, policy: Policy, config: Config):
        self.policy, self.config = policy, config
        deepspeed = load_deepspeed()
        if (taken := deepspeed.get_accelerator().device_name()) != policy.device.type:
            raise ConfigError(
                f"device={config.device!r}, but DeepSpeed trains on {taken} where it can: hide the GPUs with "
                "CUDA_VISIBLE_DEVICES="
            )
        self._is_scaled = config.dtype == "float16"
        if self._is_scaled and not deepspeed.get_accelerator().is_fp16_supported():
            raise ConfigError("dtype='float16' needs a GPU, or a CPU that computes in it: use 'bfloat16' or 'float32'")
        _init_deepspeed(policy.device.type)
        on_gpu = policy.device.type == "cuda"
        self.settings = {
            "train_micro_batch_size_per_gpu": 1,  # unused: micro-batches are cut by the caller
            "gradient_accumulation_steps": 1,
            "gradient_clipping": config.grad_clip,
            "zero_optimization": _zero(config),
            "bf16": {"enabled": config.dtype == "bfloat16"},
            "fp16": {"enabled": config.dtype == "float16", "hysteresis": 1},  # half the scale at every overflow
            # stage 1 would become another optimizer, which `zero_state` does not know
            "data_types": {"grad_accum_dtype": "fp32"} if config.zero_stage >= 2 else {},
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own CPU Adam compiles for minutes, torch's is fused too
            "steps_per_print": None,
        }
        optimizer = torch.optim.AdamW(
            [p for p in policy.parameters() if p.requires_grad],
            lr=config.lr,
            betas=config.betas,
            weight_decay=config.weight_decay,
            # one pass over memory instead of a dozen, and no copies
            fused=on_gpu or config.offload.startswith("optimizer") or None,
        )
        self.schedule: Any = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_factor(config))
        self.deepspeed: Any  # its own types leave out what its ZeRO optimizers have
        self.deepspeed, *_ = deepspeed.initialize(
            model=policy, optimizer=optimizer, lr_scheduler=self.schedule, config=self.settings
        )
        if config.zero_stage == 3:
            _own_head(policy)
        self._parked = False
        self._sizes: list[Tensor] = []  # of the losses and gradients of an update
        for parameter in policy.parameters():
            if parameter.requires_grad and not self._is_scaled:  # DeepSpeed looks for overflow itself
                parameter.register_hook(self._record_grad_norm)

    def shard(self, policy: Policy) -> Policy:
        """Partition a policy that is not trained over the ranks, as the stage does with the trained one."""
        if self.config.zero_stage == 3 and process_group.world_size() > 1:
            load_deepspeed().initialize(model=policy, config=self.settings)
            _own_head(policy)
        return policy

    def __call__(self, batch: Rollout, with_entropy: bool = False) -> tuple[Tensor, Tensor]:
        """(logp, entropy) of a micro-batch, `[B, T]`, with gradient."""
        return self.deepspeed(batch, with_entropy=with_entropy)

    @torch.no_grad()
    def logp(self, batch: Rollout, policy: Policy | None = None) -> tuple[Tensor, Tensor]:
        """(logp, entropy) of a whole batch, `[B, T]` on the CPU, by this policy or the reference.

        Each rank computes its own part of the batch; all get the whole.
        """
        policy, device = policy or self.policy, self.policy.device
        logp, entropy = torch.zeros_like(batch.rollout_logp), torch.zeros_like(batch.rollout_logp)
        rows_of_micros, padding = self._micro_batches(batch)
        for rows in rows_of_micros:
            micro = batch.select(rows)
            T = micro.mask.shape[1]
            logp[rows, :T], entropy[rows, :T] = (x.cpu() for x in policy(micro.to(device), with_entropy=True))
        for _ in range(padding):
            policy(batch.dummy().to(device))
        return process_group.all_reduce_sum(logp), process_group.all_reduce_sum(entropy)

    def update(self, batch: Sequences, loss: Callable[[Sequences], Tensor]) -> dict[str, float] | None:
        """One optimizer step on the sum of `loss(micro_batch)` over the micro-batches of an optimizer batch.

        Each rank computes its own part of `batch`, which all of them hold. Returns the gradient norm before clipping
        and the learning rate used. Raises NonFiniteError, with the weights unchanged, if a loss or a gradient is NaN
        or infinite. In float16 a scaled gradient that overflows returns None: no step was made, and the next has half
        the scale.
        """
        self.unpark()
        self._sizes.clear()
        lr = self.deepspeed.get_lr()[0]
        rows_of_micros, padding = self._micro_batches(batch)
        micros = [batch.select(rows) for rows in rows_of_micros] + [batch.dummy()] * padding
        for i, micro in enumerate(micros, 1):
            part = loss(micro)
            self._sizes.append(part.detach().float())
            self.deepspeed.set_gradient_accumulation_boundary(i == len(micros))
            # DeepSpeed averages over ranks; the losses of the ranks are parts of one sum.
            self.deepspeed.backward(part * process_group.world_size(), scale_wrt_gas=False)
        if process_group.all_reduce_sum((~torch.stack(self._sizes).isfinite()).sum()) > 0:
            self.deepspeed.optimizer.zero_grad()
            raise NonFiniteError("the loss or a gradient is NaN or infinite")
        self.deepspeed.step()
        if self._is_scaled and self.deepspeed.optimizer.overflow:
            if self.deepspeed.optimizer.loss_scale <= 1:
                raise NonFiniteError("a gradient is NaN or infinite in float16, even unscaled")
            return None
        return {"grad_norm": float(self.deepspeed.get_global_grad_norm()), "lr": lr}

    def park(self) -> None:
        """With offload="rollout", move the optimizer's state to main memory, until the next `update` or `load`."""
        if self.config.offload == "rollout" and not self._parked:
            from dgpo.run import parking

            parking.to_host(self.deepspeed)
            self._parked = True

    def unpark(self) -> None:
        """Undo `park`."""
        if self._parked:
            from dgpo.run import parking

            parking.to_device(self.deepspeed, self.policy.device)
            self._parked = False

    def named_full_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """(name as in the checkpoint, full tensor) of every parameter of the policy, with LoRA's additions.

        Under ZeRO-3 all ranks gather each tensor together, so each rank must iterate to the end.
        """
        for name, parameter in lora.merged(self.policy.lm):
            if self.config.zero_stage == 3:
                with load_deepspeed().zero.GatheredParameters([parameter]):
                    yield name, parameter.data
            else:
                yield name, parameter

    def full_state_dict(self) -> dict[str, Tensor]:
        """Copies of a checkpoint's weights and buffers on the CPU of rank 0; empty on the other ranks.

        All ranks must call it.
        """
        own = {
            name: tensor.detach().cpu().clone()
            for name, tensor in self.named_full_parameters()
            if process_group.rank() == 0
        }
        if process_group.rank() == 0:
            saved = self.policy.lm.state_dict()
            own |= {k: v.cpu().clone() for k, v in self.policy.lm.named_buffers() if k in saved}
        return own

    def save(self, folder: Path) -> None:
        """Write this rank's shard of the weights and the optimizer into `folder`."""
        zero_state.save(folder, self.policy, self.deepspeed.optimizer)

    def load(self, folder: Path, updates: int) -> None:
        """Load the shards in `folder`, written after `updates` optimizer steps by any number of ranks."""
        self.unpark()
        zero_state.load(folder, self.policy, self.deepspeed.optimizer, updates)
        self.schedule.load_state_dict(self.schedule.state_dict() | {"last_epoch": updates, "_step_count": updates + 1})
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = self.config.lr * lr_factor(self.config)(updates)

    @property
    def updates(self) -> int:
        """Optimizer steps made so far."""
        return self.schedule.last_epoch

    def _micro_batches(self, batch: Rollout) -> tuple[list[Tensor], int]:
        """The sequence numbers of this rank's micro-batches, and the number of empty ones it must add.

        Under ZeRO all ranks take part in every micro-batch, so all of them run equally many.
        """
        own = batch.split_across_ranks(process_group.world_size())[process_group.rank()]
        limits = self.config.micro_batch_size, self.config.max_tokens_per_micro_batch
        micros = [own[rows] for rows in batch.select(own).micro_batches(*limits)]
        return micros, int(process_group.all_reduce_max(torch.tensor(len(micros)))) - len(micros)

    def _record_grad_norm(self, gradient: Tensor) -> None:
        # The sum of squares, not the elements: a norm can overflow where no gradient does, and clipping divides by it.
        self._sizes.append(torch.linalg.vector_norm(gradient, dtype=torch.float32).square())


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


def _zero(config: Config) -> dict:
    """DeepSpeed's settings of the ZeRO stage and of offloading to host memory."""
    zero: dict[str, Any] = {"stage": config.zero_stage}
    if config.zero_stage == 3:
        zero["stage3_param_persistence_threshold"] = _PERSISTENT
    pinned = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if config.offload.startswith("optimizer"):
        zero["offload_optimizer"] = pinned
    if config.offload == "optimizer+params":
        zero["offload_param"] = pinned
    return zero


def _own_head(policy: Policy) -> None:
    """Register the output layer's weight, which the policy uses outside that layer: ZeRO-3 must gather it there too."""
    head = policy.head
    for parameter in head.parameters():
        load_deepspeed().zero.register_external_parameter(policy, parameter)


def _init_deepspeed(device: str) -> None:
    """Let DeepSpeed take over the process group."""
    deepspeed = load_deepspeed()
    if device == "cpu":  # else it compiles shared-memory collectives for minutes, which gloo does without
        deepspeed.ops.__dict__.setdefault("__compatible_ops__", {})
    deepspeed.init_distributed(
        dist_backend="nccl" if device == "cuda" else "gloo", auto_mpi_discovery=False, verbose=False
    )
