"""The configuration of a run: complete, checked and explicit before anything is loaded."""

from __future__ import annotations

from groupwise.config.grpo import GRPOConfig
from groupwise.config.recipe import DataSpec, LoraSpec, Recipe, RewardSpec, load_recipe

__all__ = ["DataSpec", "GRPOConfig", "LoraSpec", "Recipe", "RewardSpec", "load_recipe"]
