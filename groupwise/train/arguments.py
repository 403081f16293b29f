"""What is given to a trainer, looked at before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config import GRPOConfig
from ..errors import ConfigError, did_you_mean

_NAMES = (
    "model", "reward_funcs", "args", "train_dataset", "eval_dataset", "processing_class", "reward_processing_classes",
    "callbacks", "optimizers", "peft_config", "screen",
)  # fmt: skip


def check_arguments(model: Any, rewards: Any, args: Any, data: Any, unknown: Mapping[str, Any]) -> None:
    """Raise `ConfigError` for an argument that is missing, unknown, or a configuration of another library."""
    for name in unknown:
        raise ConfigError(f'GRPOTrainer has no argument "{name}".{did_you_mean(name, _NAMES)}')
    if args is not None and not isinstance(args, GRPOConfig):
        raise ConfigError(
            f"args is a {type(args).__module__}.{type(args).__name__}; expected groupwise.GRPOConfig. It takes the "
            "same arguments: change the import."
        )
    for name, value in (("model", model), ("reward_funcs", rewards), ("train_dataset", data)):
        if value is None:
            raise ConfigError(f"GRPOTrainer needs {name}.")
