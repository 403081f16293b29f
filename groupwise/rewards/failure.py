"""The error for a reward function that failed: which one, how, and at which completion."""

from __future__ import annotations

import re
import traceback
from typing import Any

from groupwise.errors import RewardError, words_of
from groupwise.rewards.flat_groups import FlatGroups
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.import_function import failing_line, source_file
from groupwise.rewards.interrupt import CallTimeoutError
from groupwise.rewards.isolated import FailedInWorkerError, Isolated

TEXT_OF_A_CHAT = (
    "The prompts are chats, so each completion is a list of messages; completion_text(completion), from "
    "groupwise.rewards, is its text."
)
_OF_A_LIST = re.compile(r"raised (?:AttributeError|TypeError): .*\b(?:list|dict)\b", re.DOTALL)
_MEND_OR_NONE = "Mend the function, or let it return None for a completion that it cannot score."


def failure(function: RewardFunction, flat: FlatGroups, keywords: dict[str, Any], error: BaseException) -> RewardError:
    """The error for an exception inside a function, with the completion that its variables hold, if any."""
    if isinstance(error, FailedInWorkerError):
        row, line, what = error.row, error.line, str(error)
    else:
        row, line = _row(flat, keywords, error), failing_line(error, function.call)
        what = f"raised {type(error).__name__}: {words_of(error)}"
    many = f"one of {len(flat.rows)} completions; the first is {flat.describe(0)}"
    at = f"It was at {flat.describe(row) if row is not None else many}."
    if isinstance(error, CallTimeoutError):
        return RewardError(f"{_overdue(function, error, line)} {at} {_more_time(function)}")
    where = f" ({line})" if line else ""
    is_chat = any(isinstance(each, list) for each in keywords["completions"])
    hint = f" {TEXT_OF_A_CHAT}" if is_chat and _OF_A_LIST.match(what) else ""
    return RewardError(f'Reward function "{function.name}" {what}{where}. {at}{hint} {_MEND_OR_NONE}')


def _row(flat: FlatGroups, keywords: dict[str, Any], error: BaseException) -> int | None:
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    found = (flat.find(keywords, frame.f_locals.values()) for frame in reversed(frames))
    return next((row for row in found if row is not None), None)


def _overdue(function: RewardFunction, error: CallTimeoutError, line: str) -> str:
    where = f" ({line})" if error.is_stopped and source_file(function.call) in (line.rpartition(",")[0],) else ""
    rest = "" if error.is_stopped else " It cannot be stopped from here and is still running."
    return f'Reward function "{function.name}" did not return within {function.limits.timeout_s:g} s{where}.{rest}'


def _more_time(function: RewardFunction) -> str:
    isolate = (
        ""
        if isinstance(function.call, Isolated)
        else "isolated: true, which runs it in a process of its own that can be ended; "
    )
    return (
        f"Give it longer (timeout_s of the reward), or {isolate}on_failure: none leaves its completions unscored "
        "and goes on."
    )
