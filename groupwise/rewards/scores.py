"""From what a reward function returned to one number, or None, for each completion."""

from __future__ import annotations

import math
from numbers import Number
from typing import Any

from groupwise.errors import RewardError
from groupwise.rewards.rows import Rows


def read_scores(name: str, returned: Any, rows: Rows) -> list[float | None]:
    """One score a row; None and NaN mean that the completion could not be judged.

    A list, a tuple, an array or a one-dimensional tensor of numbers will do. Anything else is a `RewardError` that
    names the function, the row and what was returned.
    """
    values = _as_list(name, returned, rows)
    if len(values) != len(rows.rows):
        first = f" The first without one: {rows.describe(len(values))}." if len(values) < len(rows.rows) else ""
        raise RewardError(
            f'Reward function "{name}" returned {len(values)} rewards for {len(rows.rows)} completions; return one for '
            f"each, None where it cannot judge.{first}"
        )
    return [_score(name, value, row, rows) for row, value in enumerate(values)]


def _as_list(name: str, returned: Any, rows: Rows) -> list[Any]:
    if isinstance(returned, list | tuple):
        return list(returned)
    if hasattr(returned, "tolist") and len(getattr(returned, "shape", ())) == 1:
        return list(returned.tolist())
    shape = f" of shape {tuple(returned.shape)}" if hasattr(returned, "shape") else ""
    raise RewardError(
        f'Reward function "{name}" returned {_what(returned)}{shape}; expected a list of {len(rows.rows)} numbers, one '
        f"for each completion. The first row is {rows.describe(0)}."
    )


def _score(name: str, value: Any, row: int, rows: Rows) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None:
        problem = f"{_what(value)}, which is not a number"
    elif math.isinf(number):
        problem = f"{number}, which no baseline can be computed from; return a large finite number instead"
    else:
        return None if math.isnan(number) else number
    raise RewardError(
        f'Reward function "{name}" returned {problem}. It was for {rows.describe(row)}. Return a number for each '
        "completion, None where it cannot judge."
    )


def _number(value: Any) -> float | None:
    """The value as a float; scalars of numpy and torch are unpacked, text is never parsed."""
    if hasattr(value, "item") and math.prod(getattr(value, "shape", (0,))) == 1:
        value = value.item()
    if not isinstance(value, Number) or isinstance(value, complex):
        return None
    try:
        return float(value)  # type: ignore[arg-type]  # Number promises no __float__; complex is the one without
    except OverflowError:
        return math.copysign(math.inf, 1 if value > 0 else -1)  # type: ignore[operator]


def _what(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
