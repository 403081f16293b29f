"""Reading YAML strictly: safe, no key twice, and numbers and switches as people mean them.

YAML 1.1, which PyYAML implements, reads `1e-5` as text and `no` as false. Here a number in exponent form is a number
and only `true` and `false` are switches, as in YAML 1.2.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from groupwise.errors import ConfigError

_FLOAT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_BOOL = re.compile("true|True|TRUE|false|False|FALSE")
_INT = re.compile("[-+]?[0-9]+")


class _Loader(yaml.SafeLoader):
    """A safe loader with YAML 1.2's plain scalars that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key}" stands twice', key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _plain_scalars() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """First character -> (tag, pattern), tried in order, replacing YAML 1.1's numbers and switches."""
    replaced = {f"tag:yaml.org,2002:{kind}" for kind in ("float", "int", "bool", "timestamp", "merge", "value")}
    resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag not in replaced]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, firsts in (
        ("int", _INT, "-+0123456789"),
        ("float", _FLOAT, "-+.0123456789"),
        ("bool", _BOOL, "tTfF"),
    ):
        for first in firsts:
            resolvers.setdefault(first, []).append(
                (f"tag:yaml.org,2002:{kind}", re.compile(f"^(?:{pattern.pattern})$"))
            )
    return resolvers


_Loader.yaml_implicit_resolvers = _plain_scalars()
_Loader.add_constructor("tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node)))
_Loader.add_constructor("tag:yaml.org,2002:float", lambda loader, node: _float(loader.construct_scalar(node)))


def _float(text: str) -> float:
    return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))


def parse(text: str, name: str = "text") -> Any:
    """The value of a YAML text; a broken one is a `ConfigError` that names the file and the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: this is not valid YAML: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: this is not valid YAML: {error}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file. A recipe is a YAML file; see the folder recipes/.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: this is not a text file in UTF-8.") from None
    content = parse(text, str(path))
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}.")
    return content
