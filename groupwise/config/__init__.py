"""The configuration of a run: complete, checked and explicit before anything is loaded."""

from __future__ import annotations

from groupwise.config.grpo import GRPOConfig
from groupwise.config.make_settings import replaced
from groupwise.config.recipe import DataSpec, LoraSpec, Recipe, RewardSpec, load_recipe
from groupwise.config.settings import Settings

__all__ = ["DataSpec", "GRPOConfig", "LoraSpec", "Recipe", "RewardSpec", "Settings", "load_recipe", "replaced"]
