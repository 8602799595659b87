"""Shared by all adapters: a method's loss token by token, and an error that names a missing hook."""

import importlib
import inspect
import json
import os
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from dgpo import methods
from dgpo.errors import ConfigError, Explained
from dgpo.methods import Method


class HookMoved(Explained, ImportError):
    """The trainer is installed, but the hook that an adapter uses is not where the tested version has it."""


def hook(package: str, tested: str, place: str, *parameters: str) -> Any:
    """The object at `place`, written as module:name.name, whose signature has `parameters`.

    Otherwise raises HookMoved, which names the installed and the tested version.
    """
    module, _, names = place.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for name in names.split("."):
            found = getattr(found, name)
    except (ModuleNotFoundError, AttributeError) as error:
        if isinstance(error, ModuleNotFoundError) and not f"{module}.".startswith(f"{error.name}."):
            raise  # a dependency of the trainer is missing
        raise moved(package, tested, f"there is no {place}") from None
    if missing := [name for name in parameters if name not in inspect.signature(found).parameters]:
        raise moved(package, tested, f"{place} has no parameter {missing[0]!r}")
    return found


def moved(package: str, tested: str, what: str) -> HookMoved:
    """The error for a hook that differs from the version `tested`."""
    try:
        installed = version(package)
    except PackageNotFoundError:
        return HookMoved(f"{package} is not installed; dgpo's adapter is tested with {package} {tested}")
    return HookMoved(f"{package} {installed}: {what}; dgpo's adapter is tested with {package} {tested}")


def supported() -> list[str]:
    """The methods that other trainers can use: those without entropies, whole batches and penalties."""
    return [key for key in methods.names() if methods.get_class(key).has_curve()]


def make_method(method: str | Method, params: Mapping[str, Any] | None = None) -> Method:
    """`method` itself, or the method of that key with `params`.

    Raises ValueError as `methods.get` does, ConfigError for a method that other trainers cannot use.
    """
    if params and not isinstance(method, str):
        raise ValueError(f"method_params={dict(params)!r} go with a method's name; {method} has its parameters already")
    made = methods.get(method, **(params or {})) if isinstance(method, str) else method
    if not made.has_curve():
        raise ConfigError(
            f"method={made.key!r} needs entropies, the whole optimizer batch or a penalty, which this trainer's hook "
            "has no place for: train with dgpo, or use dgpo.policy_loss"
        )
    return made


def refuse_unused(settings: Any, defaults: Mapping[str, Any], on: str) -> None:
    """Raise ConfigError for a changed setting of the trainer's own clipping, which has no effect."""
    for name, default in defaults.items():
        if (value := getattr(settings, name)) not in (None, default):
            raise ConfigError(f"{name}={value!r} has no effect on {on}")


def wide(x: Tensor) -> Tensor:
    """x in the precision of weights: float64 stays, everything else becomes float32."""
    return x if x.dtype == torch.float64 else x.float()


def token_loss(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, method: Method
) -> tuple[Tensor, Tensor]:
    """−A · sg(w_log) · log π of every token and w_log, both `[B, T]` and 0 where `mask` is; advantage `[B, 1 or T]`.

    The trainer aggregates it like its own losses. Only its gradient has a meaning.
    """
    live = mask.bool()
    w_log = method.weight(wide(logp.detach()), old_logp, advantage, live)
    product = -wide(advantage).detach() * w_log * torch.where(live, logp, 0)
    return torch.where(live, product, 0), w_log


def as_ratio_loss(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, mask: Tensor, method: Method, farthest: float = 60.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The A and log π_old that give an unclipped −A·r, r = π/π_old, the gradient −A·w_log·∇log π.

    These are A·w_log/r and log π_old, `[B, T]` without gradient, and w_log. A ratio more than `farthest` nats from 1
    is moved to that distance by another log π_old, so that neither factor overflows.
    """
    logp, old_logp, advantage = (wide(x.detach()) for x in (logp, old_logp, advantage))
    w_log = method.weight(logp, old_logp, advantage, mask)
    log_ratio = torch.where(mask.bool(), logp - old_logp, 0)
    near = log_ratio.clamp(-farthest, farthest)
    scaled = torch.where(mask.bool(), advantage * w_log * (-near).exp(), 0)
    return scaled, torch.where(near == log_ratio, old_logp, logp - near), w_log


def method_from_environment() -> Method:
    """The method named by DGPO_METHOD (default dgpo), with DGPO_METHOD_PARAMS, a JSON object, for its parameters."""
    return make_method(os.environ.get("DGPO_METHOD", "dgpo"), json.loads(os.environ.get("DGPO_METHOD_PARAMS", "{}")))
