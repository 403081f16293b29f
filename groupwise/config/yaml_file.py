"""A strict YAML reader: safe, no key twice, and numbers and switches as people mean them.

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

_NUMBERS = "-+.0123456789"
_SCALARS = {
    "int": (r"[-+]?[0-9]+", _NUMBERS),
    "float": (r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", _NUMBERS),
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
}
"""Kind -> its pattern, and the characters it can start with; tried in this order."""
_REPLACED = {f"tag:yaml.org,2002:{kind}" for kind in (*_SCALARS, "timestamp", "merge", "value")}


class _Loader(yaml.SafeLoader):
    """A safe loader with YAML 1.2's plain scalars that refuses a key written twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'the key "{key}" stands twice', key_node.start_mark
                )
            seen.append(key)
        mapping: dict[Hashable, Any] = super().construct_mapping(node, deep)
        return mapping


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag not in _REPLACED]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, (_pattern, _firsts) in _SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), list(_firsts))


def _whole(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))  # 010 is ten, not eight


_Loader.add_constructor("tag:yaml.org,2002:int", _whole)


def parse(text: str, name: str = "text") -> Any:
    """The value of a YAML text; a broken one is a `ConfigError` that names the file and the line."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: this is not valid YAML: {error.problem or error.context}.") from None
    except (yaml.YAMLError, ValueError) as error:
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
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: {key!r} stands where the name of a key was expected. Write it as key: value.")
    return content
