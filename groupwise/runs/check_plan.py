"""What `groupwise check` measured of a recipe, kept in the run folder until the run itself records it as its plan."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from groupwise.redact import without_secrets
from groupwise.runs import disk
from groupwise.runs.folder import RunFolder

NAME = "plan.json"
_NOT_OF_A_STEP = ("output_dir", "run_name", "report_to", "overwrite_output_dir")
"""Fields of a recipe that a run may change without changing what it takes."""


def write_check_plan(folder: RunFolder, recipe: Mapping[str, Any], numbers: Mapping[str, float | None]) -> None:
    """Keep the measured numbers of a recipe; the folder `check/` is there."""
    text = json.dumps({"recipe_sha256": _fingerprint(recipe), **numbers}, indent=2, allow_nan=False)
    disk.replace(folder.check / NAME, text.encode() + b"\n")


def read_check_plan(folder: RunFolder, recipe: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers of the last check, where it was of this very recipe; else nothing."""
    path = folder.check / NAME
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
    except ValueError:  # half a file is no plan
        return {}
    if not isinstance(found, dict) or found.pop("recipe_sha256", None) != _fingerprint(recipe):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, int | float) or value is None}


def _fingerprint(recipe: Mapping[str, Any]) -> str:
    kept = {key: value for key, value in without_secrets(dict(recipe)).items() if key not in _NOT_OF_A_STEP}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
