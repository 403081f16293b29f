"""Loads a program and calls its functions for another process.

The program shares this process and can write whatever it likes to the pipes. That gains it nothing: the other
side takes every message for a value that its functions return.
"""

from __future__ import annotations

import sys
import types

from .frames import next_frame, private_pipes, write_frame
from .plain_values import NotPlainError, decoded, encoded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # takes a third of the time that a worker starts in


def serve(task: dict[str, Any]) -> None:
    """Execute `task["source"]` as a module, then answer calls until the pipe closes."""
    inward, outward = private_pipes()
    module = types.ModuleType("answer")
    sys.modules["answer"] = module
    write_frame(outward, _guarded(lambda: _loaded(task["source"], module)))
    kept: list[Any] = [module]
    while (call := next_frame(inward)) is not None:
        write_frame(outward, _guarded(lambda call=call: _called(call, kept)))


def _guarded(action: Any) -> dict[str, Any]:
    try:
        return {"value": action()}
    except NotPlainError as found:
        return {"kept": found.number}
    except BaseException as error:  # exit included: a program that leaves has not answered
        return {"raised": type(error).__name__, "message": str(error)[:500]}


def _loaded(source: str, module: types.ModuleType) -> Any:
    exec(compile(source, "answer.py", "exec", dont_inherit=True), module.__dict__)
    return encoded(None)


def _called(call: dict[str, Any], kept: list[Any]) -> Any:
    """Call an attribute of the module (object 0) or of an object that an earlier call returned."""
    function = getattr(kept[call["object"]], call["name"])
    value = function(*decoded(call["args"]), **decoded(call["kwargs"]))
    try:
        return encoded(value)
    except NotPlainError:
        kept.append(value)
        raise NotPlainError(len(kept) - 1) from None
