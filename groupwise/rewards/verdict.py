"""A reward of one completion with the reason for it, for rewards that can say it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

Verdict = tuple[float | None, str | None]
"""The reward (None: could not be judged), and why, in a few words: what was read in the completion."""

LogWhy = Callable[[Sequence[str | None]], None]
"""`log_why` as a reward function is handed it."""


def told(verdicts: Iterable[Verdict], log_why: LogWhy | None) -> list[float | None]:
    """The rewards; the reasons go to `log_why` where there is one."""
    listed = list(verdicts)
    if log_why is not None:
        log_why([why for _, why in listed])
    return [value for value, _ in listed]
