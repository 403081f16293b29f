"""Tests of a program in the forms of data sets: inputs with outputs, calls with values, code that asserts."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.errors import DataError

_KNOWN = (
    'a list of {"input": ..., "output": ...}, {"inputs": [...], "outputs": [...]} (with "fn_name" for calls), '
    "code that asserts, or a list of such"
)


@dataclass(frozen=True)
class Prints:
    """For this input, the program prints this."""

    stdin: str
    stdout: str


@dataclass(frozen=True)
class Asserts:
    """Code that raises where the program is wrong."""

    source: str
    entry_point: str | None = None


Test = Prints | Asserts


def read_tests(value: Any, entry_point: str | None = None) -> list[Test]:
    """The tests of one problem; a text that is JSON is read as such. `DataError` where it is none of the forms."""
    if isinstance(value, str):
        value = _json(value)
    if isinstance(value, str) and value.strip():
        return [Asserts(value, entry_point)]
    if isinstance(value, Mapping) and "inputs" in value and "outputs" in value:
        return _pairs(value, entry_point)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        return [_one(item, entry_point) for item in value]
    raise DataError(f"Reward code: the tests {str(value)[:80]!r} are none of: {_KNOWN}.")


def check_tests(tests: Sequence[Test]) -> None:
    """`DataError` for a test that is no Python, which no program could pass."""
    for number, test in enumerate(tests, start=1):
        if isinstance(test, Prints):
            continue
        try:
            ast.parse(test.source)
        except (SyntaxError, ValueError) as error:
            raise DataError(
                f"Reward code: test {number} is no Python ({error}): {test.source[:80]!r}. Mend it, or leave it out."
            ) from error


def _one(item: Any, entry_point: str | None) -> Test:
    if isinstance(item, str) and item.strip():
        return Asserts(item, entry_point)
    if isinstance(item, Mapping) and "input" in item and "output" in item:
        return Prints(_text(item["input"]), _text(item["output"]))
    raise DataError(f"Reward code: the test {str(item)[:80]!r} is none of: {_KNOWN}.")


def _pairs(value: Mapping[str, Any], entry_point: str | None) -> list[Test]:
    inputs, outputs = value["inputs"], value["outputs"]
    if len(inputs) != len(outputs) or not inputs:
        raise DataError(f"Reward code: there are {len(inputs)} inputs and {len(outputs)} outputs; give one for each.")
    name = value.get("fn_name") or None
    if name is None:
        return [Prints(_text(given), _text(wanted)) for given, wanted in zip(inputs, outputs, strict=True)]
    return [_call(given, wanted, name) for given, wanted in zip(inputs, outputs, strict=True)]


def _call(given: Any, wanted: Any, name: str) -> Asserts:
    """JSON knows no tuple, and some data sets put the one value into a list."""
    given, wanted = (_json(each) if isinstance(each, str) else each for each in (given, wanted))
    args = given if isinstance(given, list) else [given]
    source = (
        f"value = candidate(*{args!r})\n"
        "value = list(value) if isinstance(value, tuple) else value\n"
        f"assert value == {wanted!r} or [value] == {wanted!r}, value\n"
    )
    return Asserts(source, name)


def _text(value: Any) -> str:
    """A list is one item a line, as data sets that split their lines mean it."""
    return "\n".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _json(text: str) -> Any:
    """The value of a text that is a JSON list or object, otherwise the text."""
    if not text.lstrip().startswith(("[", "{")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
