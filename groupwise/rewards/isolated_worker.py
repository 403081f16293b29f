"""Worker process of an isolated reward function: imports it, then serves one call after another."""

from __future__ import annotations

import asyncio
import inspect
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from groupwise.errors import GroupwiseError
from groupwise.rewards.copies import without_arrays
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.import_function import failing_line, load_function
from groupwise.rewards.sandbox.backend_choice import BackendChoice, use
from groupwise.rewards.sandbox.held import check_sandboxes
from groupwise.rewards.sandbox.inside.frames import private_pipes, read_frame, write_frame
from groupwise.rewards.sandbox.inside.parent import end_with_parent


def main() -> None:
    """Serve until the pipe closes, or the program that started this process is gone."""
    end_with_parent()
    inward, outward = private_pipes()
    task = read_frame(inward)
    use(BackendChoice(**task["sandbox"]))
    try:
        function = RewardFunction.of(load_function(task["function"], Path(task["folder"])))
        check_sandboxes([function])
    except GroupwiseError as error:
        write_frame(outward, {"failed": str(error)})
        return
    write_frame(outward, _about(function))
    while True:
        try:
            call = read_frame(inward)
        except EOFError:
            return
        answer = _answer(function, call)
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            write_frame(outward, answer)
        except (TypeError, ValueError) as error:
            what = f"TypeError: it returned or logged what is not JSON ({error})"
            write_frame(outward, {"raised": what, "line": "", "row": None})


def _about(function: RewardFunction) -> dict[str, Any]:
    return {
        "name": function.name,
        "accepted": sorted(function.accepted),
        "required": sorted(function.required),
        "takes_all_columns": function.takes_all_columns,
    }


def _answer(function: RewardFunction, call: dict[str, Any]) -> dict[str, Any]:
    keywords, notes = call["keywords"], list[tuple[str, Any]]()
    if "trainer_state" in keywords:
        keywords["trainer_state"] = SimpleNamespace(**keywords["trainer_state"])
    for name in call["notes"]:
        keywords[name] = lambda *arguments, name=name: notes.append((name, without_arrays(arguments)))
    try:
        value = function.call(**keywords)
        if inspect.isawaitable(value):
            value = asyncio.run(_awaited(value))
    except Exception as error:
        line = failing_line(error, function.call)
        what = f"{type(error).__name__}: {error}"
        return {"raised": what, "line": line, "row": _row(error, keywords.get("completions", []))}
    return {"value": without_arrays(value), "notes": notes}


async def _awaited(value: Any) -> Any:
    return await value


def _row(error: Exception, completions: Sequence[Any]) -> int | None:
    """The completion that a variable of the failing function holds."""
    numbers = {id(completion): row for row, completion in enumerate(completions) if len(completion) > 1}
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    values = (value for frame in reversed(frames) for value in frame.f_locals.values())
    return next((numbers[id(value)] for value in values if id(value) in numbers), None)


if __name__ == "__main__":
    main()
