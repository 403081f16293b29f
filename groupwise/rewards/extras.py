"""Optional packages of rewards: imported when a reward that needs one is built."""

from __future__ import annotations

import importlib
from typing import Any

from groupwise.errors import ConfigError


def needed(module: str, extra: str, who: str) -> Any:
    """The module, or a `ConfigError` that says which extra of groupwise brings it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise
        raise ConfigError(
            f'{who} needs the package "{module}", which is not installed. Install it with: '
            f'pip install "groupwise[{extra}]"'
        ) from error
