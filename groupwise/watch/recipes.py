"""The recipes of runs as tables: every setting, and those in which runs differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from groupwise.redact import without_secrets
from groupwise.watch.watched_run import plain_json

PLACES = ("output_dir", "run_name", "overwrite_output_dir", "logging_steps", "report_to")
"""Settings that make no run another experiment."""

Setting = tuple[str, str]


def settings(config: Mapping[str, Any]) -> list[Setting]:
    """(key, value) of everything that `run.json` records, dots between the keys; secrets are hidden."""
    recorded = {key: value for key, value in config.items() if key not in ("schema_version", "description")}
    return [(key, plain_json(value)) for key, value in _flat(without_secrets(recorded))]


def differences(configs: Sequence[Mapping[str, Any]]) -> list[list[str | None]]:
    """Rows of [key, value in the first run, value in the second, ...] for the settings of the recipe that differ."""
    tables = [dict(settings({"recipe": config.get("recipe") or {}})) for config in configs]
    keys = dict.fromkeys(key for table in tables for key in table)
    rows = [[key, *(table.get(key) for table in tables)] for key in keys]
    return [
        [(key or "").removeprefix("recipe."), *values]
        for key, *values in rows
        if len(set(values)) > 1 and (key or "").removeprefix("recipe.") not in PLACES
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
