"""Writes trl_defaults.json: every field of the configurations of the installed TRL with its default.

Run with TRL's interpreter: .venv-trl/bin/python tests/config/make_trl_defaults.py (`make trl` has it).
"""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import Any

TABLE = Path(__file__).with_name("trl_defaults.json")


def defaults(config: type) -> dict[str, Any]:
    """Field -> default, as JSON holds it."""
    found = {}
    for field in dataclasses.fields(config):
        made = field.default_factory
        value = field.default if made is dataclasses.MISSING else made()
        found[field.name] = value.value if isinstance(value, Enum) else value
    return found


def table() -> dict[str, Any]:
    import trl

    configs = ("GRPOConfig", "RLOOConfig", "ModelConfig", "ScriptArguments")
    return {"trl": trl.__version__, **{name: defaults(getattr(trl, name)) for name in configs}}


if __name__ == "__main__":
    TABLE.write_text(json.dumps(table(), indent=1) + "\n", encoding="utf-8")
