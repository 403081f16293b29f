"""Calls of tools in the text of a turn, in the form that most models learn: JSON inside of `<tool_call>` tags."""

from __future__ import annotations

import json
import re
from typing import Any

from groupwise.errors import shortened
from groupwise.types import Call

_CALL = re.compile(r"<tool_call>(?P<call>.*?)(?:</tool_call>|\Z)", re.DOTALL)


def parse_calls(text: str) -> tuple[Call, ...]:
    """The calls in their order; one that cannot be read has an `error` that tells the policy what to write."""
    return tuple(_read(match["call"].strip()) for match in _CALL.finditer(text))


def _read(written: str) -> Call:
    try:
        value: Any = json.loads(written)
    except json.JSONDecodeError as error:
        return Call("", error=f"not JSON: {shortened(error.msg, 80)}. Write {_FORM}.")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return Call("", error=f"no name. Write {_FORM}.")
    arguments = value.get("arguments", {})
    if not isinstance(arguments, dict):
        return Call(value["name"], error=f"arguments are no object. Write {_FORM}.")
    return Call(value["name"], arguments)


_FORM = '{"name": ..., "arguments": {...}}'
