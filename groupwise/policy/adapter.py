"""The configuration of an adapter, from what a recipe says about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def lora_config(arguments: Mapping[str, Any]) -> Any:
    """peft's `LoraConfig`; peft is loaded only where an adapter is asked for."""
    from peft import LoraConfig

    return LoraConfig(**arguments)
