"""Reads what a reward function returned: one number, or None, for each completion.

In place of a number a completion may have a list of (end, reward): the rewards of its steps. Its number is their sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Number
from typing import Any

from groupwise.errors import RewardError
from groupwise.rewards.flat_groups import FlatGroups
from groupwise.rounding import LARGEST
from groupwise.types import Steps


@dataclass(frozen=True)
class FunctionScores:
    """The scores of one function for every row."""

    rewards: list[float | None]
    steps: list[Steps | None]
    """None for a row that got one number."""


def read_scores(name: str, returned: Any, flat: FlatGroups) -> FunctionScores:
    """One score a row; None and NaN mean that the completion is unscored.

    A list, a tuple, an array or a one-dimensional tensor of numbers will do; entries of a list may be lists of step
    scores. Anything else is a `RewardError` that names the function, the row and what was returned.
    """
    values = _as_list(name, returned, flat)
    if len(values) != len(flat.rows):
        first = f" The first without one: {flat.describe(len(values))}." if len(values) < len(flat.rows) else ""
        raise RewardError(
            f'Reward function "{name}" returned {len(values)} rewards for {len(flat.rows)} completions; return one for '
            f"each, None where it cannot score one.{first}"
        )
    steps = [_steps(name, v, row, flat) if isinstance(v, list | tuple) else None for row, v in enumerate(values)]
    rewards = [
        _score(name, v, row, flat) if s is None else _total(s)
        for row, (v, s) in enumerate(zip(values, steps, strict=True))
    ]
    return FunctionScores(rewards, steps)


def _steps(name: str, value: list[Any] | tuple[Any, ...], row: int, flat: FlatGroups) -> Steps:
    """(end, reward) of each step, ends within the completion."""
    length = len(flat.rows[row][1].token_ids)
    found = []
    for step in value:
        end = step[0] if isinstance(step, list | tuple) and len(step) == 2 else None
        if not isinstance(end, int) or isinstance(end, bool) or not 1 <= end <= length:
            raise RewardError(
                f'Reward function "{name}" returned {_what(value)}, which is not a number. For the steps of a '
                f"completion return pairs (end, reward), each end a token number from 1 to {length}. It was for "
                f"{flat.describe(row)}."
            )
        found.append((end, _score(name, step[1], row, flat)))
    return tuple(found)


def _total(steps: Steps) -> float | None:
    scored = [reward for _, reward in steps if reward is not None]
    return math.fsum(scored) if scored else None


def _as_list(name: str, returned: Any, flat: FlatGroups) -> list[Any]:
    if isinstance(returned, list | tuple):
        return list(returned)
    if hasattr(returned, "tolist") and len(getattr(returned, "shape", ())) == 1:
        return list(returned.tolist())
    shape = f" of shape {tuple(returned.shape)}" if hasattr(returned, "shape") else ""
    raise RewardError(
        f'Reward function "{name}" returned {_what(returned)}{shape}; expected a list of {len(flat.rows)} numbers, one '
        f"for each completion. The first is {flat.describe(0)}."
    )


def _score(name: str, value: Any, row: int, flat: FlatGroups) -> float | None:
    if value is None:
        return None
    number = _number(value)
    if number is None:
        problem = f"{_what(value)}, which is not a number"
    elif abs(number) > LARGEST:
        problem = (
            f"{number}, which no baseline can be computed from; return a large finite number instead, of at most "
            f"{LARGEST:g} in size"
        )
    else:
        return None if math.isnan(number) else number
    raise RewardError(
        f'Reward function "{name}" returned {problem}. It was for {flat.describe(row)}. Return a number for each '
        "completion, None where it cannot score one."
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
