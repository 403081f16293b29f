"""Calls one function for row after row."""

from __future__ import annotations

import importlib

from .frames import next_frame, private_pipes, write_frame

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # takes a third of the time that a worker starts in


def score(task: dict[str, Any]) -> None:
    """Import `module:function`, then answer every row with what the function returns for it, until the pipe closes."""
    inward, outward = private_pipes()
    module, _, attribute = task["function"].partition(":")
    try:
        function: Any = importlib.import_module(module)
        for part in attribute.split("."):
            function = getattr(function, part)
    except Exception as error:
        write_frame(outward, {"failed": _sentence(error)})
        return
    write_frame(outward, {"ready": True})
    while (message := next_frame(inward)) is not None:
        answer = {"nonce": message["nonce"], **_called(function, message["row"])}
        try:
            write_frame(outward, answer)
        except (TypeError, ValueError, RecursionError) as error:
            write_frame(outward, {"nonce": message["nonce"], "error": f"returned what is not JSON: {error}"})


def _called(function: Any, row: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"value": function(**row)}
    except MemoryError:
        return {"error": "killed: out of memory"}
    except Exception as error:
        return {"error": f"raised {_sentence(error)}"}
    except SystemExit:
        return {"error": "called exit"}


def _sentence(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]
