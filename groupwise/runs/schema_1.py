"""The run folder of schema 1: which of its files have other names now.

    config.json               -> run.json
    checkpoints/step-000100/  -> checkpoint-100/

`config.json` with a `schema_version` is a run's of schema 1; without one it is a model's.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

_STEP_NAME = re.compile(r"(set-aside-)?step-(\d+)")


def config_of(path: Path) -> Path | None:
    """The record of a run's start in the folder `path`, where it has the name of schema 1."""
    file = path / "config.json"
    return file if file.is_file() and _has_schema(file) else None


def checkpoints(path: Path) -> dict[int, Path]:
    """Step -> checkpoint under the name of schema 1, steps ascending."""
    return _named(path, None)


def set_aside(path: Path) -> dict[int, Path]:
    """Step -> checkpoint that nothing goes on from any more, under the name of schema 1."""
    return _named(path, "set-aside-")


def is_run(path: Path) -> bool:
    """Whether a part of the run in `path` still has a name of schema 1."""
    return bool(config_of(path) or checkpoints(path) or set_aside(path))


def delete(path: Path) -> None:
    """Delete what a run of schema 1 wrote under other names than today's."""
    if (config := config_of(path)) is not None:
        config.unlink()
    for checkpoint in (*checkpoints(path).values(), *set_aside(path).values()):
        shutil.rmtree(checkpoint)
    remove_leftovers(path)


def remove_leftovers(path: Path) -> None:
    """Delete what a killed run left of checkpoints, and their folder where it then is empty; other files stay."""
    for scratch in (path / "checkpoints").glob(".step-*"):
        shutil.rmtree(scratch, ignore_errors=True)
    if (path / "checkpoints").is_dir() and not any((path / "checkpoints").iterdir()):
        (path / "checkpoints").rmdir()


def _named(path: Path, prefix: str | None) -> dict[int, Path]:
    folder = path / "checkpoints"
    entries = [entry for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    found = [(match, entry) for entry in entries if (match := _STEP_NAME.fullmatch(entry.name))]
    return dict(sorted((int(match[2]), entry) for match, entry in found if match[1] == prefix))


def _has_schema(file: Path) -> bool:
    try:
        content = json.loads(file.read_bytes())
    except ValueError:
        return False
    return isinstance(content, dict) and "schema_version" in content
