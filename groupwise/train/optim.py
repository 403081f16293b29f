"""Optimizers and learning-rate schedules, by the ecosystem's names."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from groupwise.config import Settings
from groupwise.errors import ConfigError
from groupwise.policy.adapter import has_adapter, named_trained
from groupwise.policy.backend import backend_of
from groupwise.policy.policy_model import PolicyModel
from groupwise.runs.trackers import is_installed

_log = logging.getLogger(__name__)


def make_optimizer(config: Settings, policy_model: PolicyModel) -> tuple[Optimizer, str]:
    """The optimizer over what is trained, and the name of the one really used."""
    lr = config.peak_learning_rate(has_adapter=has_adapter(policy_model.model))
    groups = _decay_groups(policy_model.optimized, config.weight_decay)
    adam: dict[str, Any] = {"lr": lr, "betas": (config.adam_beta1, config.adam_beta2), "eps": config.adam_epsilon}
    if config.optim == "sgd":
        return torch.optim.SGD(groups, lr=lr), "sgd"
    if config.optim == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(groups, lr=lr, scale_parameter=False, relative_step=False), "adafactor"
    if config.optim == "adamw_8bit":
        eight_bit = _eight_bit(groups, adam)
        if eight_bit is not None:
            return eight_bit
        _log.warning("optim adamw_8bit: no 8-bit AdamW works on this machine; float32 AdamW is used instead.")
    can_fuse = all(backend_of(p.device).has_fused_optimizer for group in groups for p in group["params"])
    fused = config.optim == "adamw_fused" or can_fuse
    return torch.optim.AdamW(groups, fused=fused or None, **adam), "adamw_fused" if fused else "adamw"


def _eight_bit(groups: list[dict[str, Any]], adam: dict[str, Any]) -> tuple[Optimizer, str] | None:
    """8-bit AdamW of bitsandbytes or torchao; both need a GPU."""
    if not torch.cuda.is_available() or not groups[0]["params"][0].is_cuda:
        return None
    if is_installed("bitsandbytes"):
        from bitsandbytes.optim import AdamW8bit

        return AdamW8bit(groups, **adam), "adamw_8bit (bitsandbytes)"
    if is_installed("torchao"):
        from torchao.optim import AdamW8bit as TorchAoAdamW8bit

        return TorchAoAdamW8bit(groups, **adam), "adamw_8bit (torchao)"
    return None


def check_own_optimizer(optimizer: Optimizer, model: nn.Module) -> None:
    """Look for the model's trained parameters in an optimizer that the user built.

    It holds none where it was built over another model, a copy, or this one before its adapter was put on.

    Raises:
        ConfigError: it holds none of them, so nothing would ever move.
    """
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    trained = named_trained(model)
    missing = [name for name, p in trained.items() if id(p) not in held]
    if not missing:
        return
    what = f"The {type(optimizer).__name__} given in optimizers holds {len(trained) - len(missing)} of the model's "
    what += f"{len(trained)} trained parameters"
    if len(missing) == len(trained):
        raise ConfigError(
            f"{what}, so nothing would be learnt. Build it over the parameters of the model that is given, its adapter "
            "included: optimizers=(AdamW(model.parameters()), None)."
        )
    _log.warning(f"{what}; the others ({missing[0]}, ...) stay as they are.")


def _decay_groups(trained: Sequence[Tensor], weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay acts on matrices; vectors (biases, norms) are left alone."""
    matrices = [p for p in trained if p.dim() >= 2]
    vectors = [p for p in trained if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [g for g in groups if g["params"]]


def make_scheduler(config: Settings, optimizer: Optimizer, num_updates: int) -> LRScheduler:
    """transformers' schedule of that name over `num_updates` optimizer steps."""
    from transformers import get_inverse_sqrt_schedule, get_scheduler

    warmup = config.num_warmup_steps(num_updates)
    if config.lr_scheduler_type == "inverse_sqrt":  # get_scheduler of transformers 5.0 drops its settings
        return get_inverse_sqrt_schedule(optimizer, warmup, **config.lr_scheduler_kwargs)  # type: ignore[no-any-return]
    return get_scheduler(  # type: ignore[no-any-return]
        config.lr_scheduler_type,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=num_updates,
        scheduler_specific_kwargs=dict(config.lr_scheduler_kwargs) or None,
    )


def check_schedule(config: Settings, num_updates: int) -> None:
    """Raise `ConfigError` where the schedule cannot be set up; note a warm-up that is not over when the run is."""
    peak = config.peak_learning_rate()
    try:
        scheduler = make_scheduler(config, torch.optim.SGD([torch.zeros(1)], lr=peak), num_updates)
        for factor in getattr(scheduler, "lr_lambdas", ()):
            factor(num_updates)  # where the last step leaves it; some fail only after the warm-up
    except Exception as error:  # each schedule is a function of its own
        raise ConfigError(
            f"lr_scheduler_type {config.lr_scheduler_type} cannot be set up with learning_rate {peak:g} and "
            f"lr_scheduler_kwargs {config.lr_scheduler_kwargs}: {error}."
        ) from error
    warmup = config.num_warmup_steps(num_updates)
    if warmup >= num_updates and config.lr_scheduler_type != "constant":
        _log.warning(
            f"The warm-up takes {warmup} optimizer steps and the run has {num_updates}: the learning rate only rises, "
            f"to {(num_updates - 1) / warmup:.0%} of learning_rate."
        )
