"""YAML is read strictly."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from groupwise.config.yaml_file import parse, read_mapping
from groupwise.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-5", 1e-5),
        ("1E5", 1e5),
        ("2.0e-4", 2e-4),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("3", 3),
        ("-3", -3),
        ("010", 10),
        ("no", "no"),
        ("on", "on"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("0o17", 15),
        ("1.", 1.0),
        ("=", "="),
        ("{a: 2024-01-01}", {"a": "2024-01-01"}),
        ("2024-01-01", "2024-01-01"),
        ("'1e-5'", "1e-5"),
        ("e5", "e5"),
        ("[1, 2.0]", [1, 2.0]),
    ],
)
def test_plain_values(text: str, value: object) -> None:
    read = parse(text)
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, 'the key "a" stands twice'),
        ("a:\n  b: 1\n  b: 2\n", 3, 'the key "b" stands twice'),
        ("a: [1\nb: 2\n", 2, "expected"),
        ("a: 1\n\tb: 2\n", 2, "cannot start any token"),
        ("a: !!python/object/apply:os.getcwd []\n", 1, "could not determine a constructor"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path: Path, text: str, line: int, problem: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        read_mapping(path)
    assert str(caught.value).startswith(f"{path}, line {line}: this is not valid YAML: ")
    assert problem in str(caught.value)


def test_what_is_no_recipe_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        read_mapping(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="expected a mapping of keys to values, found list"):
        read_mapping(tmp_path / "list.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_mapping(tmp_path / "bytes.yaml")


@pytest.mark.parametrize("text", ["!!bool 3", "!!float", "!!int x", "[" * 2000, "\x00"])
def test_whatever_a_reader_trips_over_is_an_error_of_ours(text: str) -> None:
    with pytest.raises(ConfigError, match="this is not valid YAML"):
        parse(text)


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("rows.jsonl", '{"prompt": "a"}\n', r"this is a data file. Name it in a recipe \(data: rows.jsonl\)"),
        ("rows.csv", "prompt\na\n", r"this is a data file. Name it in a recipe \(data: rows.csv\)"),
        ("rows.json", '[{"prompt": "a"}]', r"this is a data file. Name it in a recipe \(data: rows.json\)"),
        ("train.py", "import trl", r"this is a Python program. Run it with python train.py, or .*\[train.py:NAME\]"),
    ],
)
def test_a_file_that_is_no_recipe_is_named_for_what_it_is(tmp_path: Path, name: str, content: str, what: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{name}: expected a recipe.* {what}"):
        read_mapping(tmp_path / name)
