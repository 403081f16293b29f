"""A strict YAML reader: YAML 1.2, plain values alone, no key twice.

By YAML 1.2 `1e-5` is a number and `no` is text.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError

from groupwise.errors import ConfigError, near_path, words_of


class _Constructor(SafeConstructor):
    """Makes plain values: a date is text, as JSON has none."""

    def check_mapping_key(self, node: Any, key_node: Any, mapping: Any, key: Any, value: Any) -> bool:
        if key in mapping:
            raise DuplicateKeyError(None, None, f'the key "{key}" stands twice', key_node.start_mark)
        return True


for _kind in ("timestamp", "value"):
    _Constructor.add_constructor(f"tag:yaml.org,2002:{_kind}", SafeConstructor.construct_yaml_str)


_NO_RECIPES = {
    **dict.fromkeys((".jsonl", ".csv", ".parquet", ".arrow"), "a data file. Name it in a recipe (data: {name})"),
    ".py": "a Python program. Run it with python {name}, or name a function of it in a recipe (rewards: [{name}:NAME])",
}
"""Ending of a file that is given as a recipe and is none -> what it is, and where it belongs."""


def parse(text: str, name: str = "text") -> Any:
    """The value of a YAML text; a broken one is a `ConfigError` that names the file and the line."""
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = _Constructor
    try:
        return reader.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{name}{line}: this is not valid YAML: {error.problem or error.context}.") from None
    except Exception as error:  # a tag before a value of another kind (!!bool 3) fails in many ways
        raise ConfigError(f"{name}: this is not valid YAML: {words_of(error)}") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file."""
    if not path.is_file():
        raise ConfigError(
            f"{path}: there is no such file.{near_path(path)} A recipe is a YAML file; see the folder recipes/."
        )
    if (what := _NO_RECIPES.get(path.suffix.lower())) is not None:
        raise ConfigError(
            f"{path}: expected a recipe, a YAML file of keys such as model, data and rewards; this is "
            f"{what.format(name=path.name)}. Recipes to start from are in the folder recipes/."
        )
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: this is not a text file in UTF-8.") from None
    content = parse(text, str(path))
    if isinstance(content, list) and path.suffix.lower() == ".json":
        raise ConfigError(f"{path}: expected a recipe; this is a data file. Name it in a recipe (data: {path.name}).")
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values, found {type(content).__name__}.")
    for key in content:
        if not isinstance(key, str):
            raise ConfigError(f"{path}: {key!r} stands where the name of a key was expected. Write it as key: value.")
    return content
