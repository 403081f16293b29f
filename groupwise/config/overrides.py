"""`--set key=value`: dotted keys reach into mappings and lists, values are YAML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groupwise.config.yaml_file import parse
from groupwise.errors import ConfigError

_SHORT_FORMS = {"data": "path", "objective": "preset", "rewards": "name"}
"""Key -> what a plain text in its place stands for."""


def apply_overrides(keys: dict[str, Any], overrides: Sequence[str]) -> None:
    """Write every `key=value` into `keys`, in order."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise ConfigError(
                f"--set {override}: expected key=value, for example learning_rate=1e-5 or data.split=train."
            )
        _write(keys, key.strip().split("."), parse(text, f"--set {override}"), override)


def _write(keys: dict[str, Any], path: Sequence[str], value: Any, override: str) -> None:
    place: Any = keys
    for part in path[:-1]:
        place = _step_into(place, part, path[0], override)
    _put(place, path[-1], value, override)


def _step_into(place: Any, part: str, root: str, override: str) -> Any:
    """The mapping or list under `part`; a short form is written out, a missing one made."""
    if isinstance(place, list):
        index = _index(place, part, override)
        if isinstance(place[index], str) and root in _SHORT_FORMS:
            place[index] = {_SHORT_FORMS[root]: place[index]}
        return place[index]
    found = place.get(part) if isinstance(place, dict) else None
    if isinstance(found, str) and part in _SHORT_FORMS:
        found = [found] if part == "rewards" else {_SHORT_FORMS[part]: found}
    elif isinstance(found, str) and root == "guards" != part:
        found = {"action": found}
    elif found is None or found is True:
        found = {}
    if not isinstance(place, dict) or not isinstance(found, dict | list):
        raise ConfigError(f"--set {override}: {part} is {found!r}, which has no keys of its own.")
    place[part] = found
    return found


def _put(place: Any, part: str, value: Any, override: str) -> None:
    if isinstance(place, list):
        place[_index(place, part, override)] = value
    elif isinstance(place, dict):
        place[part] = value
    else:
        raise ConfigError(f"--set {override}: {place!r} has no keys of its own.")


def _index(place: list[Any], part: str, override: str) -> int:
    if not part.isdigit() or int(part) >= len(place):
        raise ConfigError(f"--set {override}: {part} is no place in a list of {len(place)}; the first one is 0.")
    return int(part)
