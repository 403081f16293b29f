"""`GRPOTrainer` and `RLOOTrainer` for scripts that follow TRL: without `args`, TRL's defaults."""

from __future__ import annotations

from groupwise import trainer
from groupwise.trl.configs import GRPOConfig, RLOOConfig


class GRPOTrainer(trainer.GRPOTrainer):
    """groupwise's trainer. What it does follows from its `args`, which carry the conventions."""

    config_class = GRPOConfig


class RLOOTrainer(trainer.GRPOTrainer):
    """The same trainer with leave-one-out advantages, which its `args` choose."""

    config_class = RLOOConfig
