"""Reading a configuration by the ecosystem's names, as callbacks and users' scripts do (`trainer.args.<name>`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from groupwise.config.objective import AXES
from groupwise.config.translate import FOREIGN

if TYPE_CHECKING:
    from groupwise.config.grpo import GRPOConfig

_DERIVED: dict[str, Callable[[GRPOConfig], Any]] = {
    "per_device_train_batch_size": lambda config: config.completions_per_step // config.num_minibatches,
    "gradient_accumulation_steps": lambda config: 1,
    "generation_batch_size": lambda config: config.completions_per_step,
    "steps_per_generation": lambda config: config.num_minibatches,
    "bf16": lambda config: config.dtype == "bfloat16",
    "torch_dtype": lambda config: config.dtype,
    "evaluation_strategy": lambda config: config.eval_strategy,
    "logging_strategy": lambda config: "steps" if config.logging_steps else "no",
    "logging_dir": lambda config: config.output_dir,
}


def read_foreign(config: GRPOConfig, name: str) -> Any:
    """An axis from the objective; another key as it was written, else as it follows from the fields."""
    if name in AXES:
        return getattr(config.resolved_objective, name)
    if config.as_written.get(name) is not None:
        return config.as_written[name]
    if name in _DERIVED:
        return _DERIVED[name](config)
    return FOREIGN[name].default
