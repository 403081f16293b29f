"""Any Python value as JSON, the same in every process."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from groupwise.json_values import LEFT_OUT, MAX_DEPTH, as_text, plain_value


class Silent:
    """An object of which Python prints an address."""


class Broken:
    def __repr__(self) -> str:
        raise ValueError("no")

    tolist = property(__repr__)


@dataclasses.dataclass
class Puzzle:
    name: str
    tags: set[str]
    parent: Any = None


def loop() -> dict[str, Any]:
    value: dict[str, Any] = {"a": 1}
    value["self"] = value
    return value


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: dict[str, tuple[Any, Any]] = {
    "JSON's own": ({"a": [1, 2.5, None, True, "x"]}, {"a": [1, 2.5, None, True, "x"]}),
    "keys that are tuples": ({(0, 1): "x"}, {"[0, 1]": "x"}),
    "keys of many kinds": ({1: "a", "b": 2, None: 3, b"c": 5}, {"1": "a", "b": 2, "None": 3, "b'c'": 5}),
    "a loop": (loop(), {"a": 1, "self": LEFT_OUT}),
    "a loop of two": ([x := [1], [x, x]], [[1], [[1], [1]]]),
    "sets": ({"c", "a", "b"}, ["a", "b", "c"]),
    "a set of tuples": (frozenset({(2, "b"), (1, "a")}), [[1, "a"], [2, "b"]]),
    "bytes": ([b"\xff"], ["b'\\xff'"]),
    "an object": (Silent(), f"<{__name__}.Silent object>"),
    "a function": (loop, "<function loop>"),
    "an object that cannot be printed": ({"b": Broken()}, {"b": "<Broken>"}),
    "a key that cannot be printed": ({Broken(): 1}, {"<Broken>": 1}),
    "a data class": (Puzzle("p", {"b", "a"}), {"name": "p", "tags": ["a", "b"], "parent": None}),
    "a number too long to print": ([10**5000], [hex(10**5000)]),
    "a long number": ([10**400, {"n": 10**400}], [10**400, {"n": 10**400}]),
    "arrays": ([np.arange(3), np.float32(0.5), np.int64(7)], [[0, 1, 2], 0.5, 7]),
    "tensors": ([torch.eye(2), torch.tensor(3)], [[[1.0, 0.0], [0.0, 1.0]], 3]),
    "a tensor without values": (torch.zeros(2, device="meta"), "tensor(..., device='meta', size=(2,))"),
    "paths and decimals": ([Path("x"), Decimal("1.50")], ["x", "1.50"]),
    "not finite": ([math.nan, math.inf], [None, None]),
}


@pytest.mark.parametrize("name", VALUES)
def test_every_value_becomes_json(name: str) -> None:
    value, expected = VALUES[name]
    found = plain_value(value, {})
    assert found == expected
    assert json.loads(json.dumps(found)) == found


def test_depth_has_a_bound() -> None:
    text = json.dumps(plain_value(deep(10_000), {}))
    assert text == "[" * MAX_DEPTH + f'"{LEFT_OUT}"' + "]" * MAX_DEPTH


def test_what_is_not_finite_is_noted_under_its_path() -> None:
    noted: dict[str, str] = {}
    plain_value({"a": [1.0, math.nan], ("k", 1): {"b": -math.inf}}, noted)
    assert noted == {"a[1]": "nan", "['k', 1].b": "-inf"}


def test_values_that_differ_have_different_texts() -> None:
    values = [None, math.nan, math.inf, 0, "0", [], {}, {"a": 1}, {"a": 2}, {(1, 2): 1}, {(1, 3): 1}, b"a", b"b"]
    texts = [as_text([value]) for value in values]
    assert len(set(texts)) == len(values)


def test_plain_data_has_the_text_that_json_gives_it() -> None:
    value = [[1, 2], {"b": [1.5, None], "a": "é"}]
    assert as_text(value) == json.dumps(value, sort_keys=True)


PROGRAM = """
import sys; sys.path.insert(0, {tests!r})
import test_json_values as t
from groupwise.json_values import as_text
filler = [t.Silent() for _ in range(int(sys.argv[1]))]
print(as_text([value for value, _ in t.VALUES.values()] + [t.Silent(), t.loop, lambda: 1, {{"x", "y", "z"}}]))
"""


def test_the_text_is_the_same_in_every_process() -> None:
    program = PROGRAM.format(tests=str(Path(__file__).parent))
    texts = {
        subprocess.run(
            [sys.executable, "-c", program, number],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": number, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for number in ("1", "2000")
    }
    assert len(texts) == 1
