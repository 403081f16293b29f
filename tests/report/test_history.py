"""Tests of the sentences: figures worked out by hand."""

from __future__ import annotations

import pytest

from groupwise.diagnose.trend import reward_change
from groupwise.report.history import evaluation_rows, in_short
from groupwise.runs.series import function_names, series


def records(*rewards: float | None) -> list[dict[str, float | None]]:
    return [{"step": step, "reward": reward} for step, reward in enumerate(rewards, 1)]


def test_series_skip_what_was_not_measured() -> None:
    found = series(records(1.0, None, 3.0), "reward")
    assert (found.steps, found.values) == ((1, 3), (1.0, 3.0))
    assert found.averaged(2).values == (1.0, 2.0)


def test_first_and_last_are_means_of_the_two_ends() -> None:
    change = reward_change(records(*range(100)))
    assert change is not None
    assert (change.first, change.num_first) == (2.0, 5)
    assert (change.last, change.num_last) == (94.5, 10)
    assert change.difference == 92.5
    assert change.trend == 90.0
    assert change.error == pytest.approx((2 * 9.166667 / 10) ** 0.5)
    assert change.verdict == "The reward rose from 2.00 to 94.5."


@pytest.mark.parametrize(
    ("rewards", "start"),
    [
        ([5.0] * 30, "The reward did not clearly move"),
        ([1.0, 9.0] * 15, "The reward did not clearly move"),
        ([-float(i) for i in range(30)], "The reward fell"),
        ([1.0, 2.0], "There are too few steps"),
    ],
)
def test_verdicts(rewards: list[float], start: str) -> None:
    change = reward_change(records(*rewards))
    assert change is not None
    assert change.verdict.startswith(start)


def test_nothing_to_compare() -> None:
    assert reward_change(records()) is None
    assert reward_change(records(1.0, None)) is None


def test_time_is_steps_and_evaluations() -> None:
    rows = [
        {"step": i, "step_time": 30.0, "time/eval": 5.0 if i == 2 else None, "num_tokens": 1000 * i} for i in (1, 2)
    ]
    assert dict(in_short(rows)) == {"steps": "2", "tokens": "2,000", "time": "1:05"}


def test_evaluations_carry_their_error() -> None:
    rows = [
        {"step": 0, "eval_reward": -290.0, "eval_reward_stderr": 8.0},
        {"step": 5, "reward": 1.0},
        {"step": 10, "eval_reward": -25.0, "eval_reward_stderr": None},
    ]
    assert evaluation_rows(rows) == [("sampled", "-290 ± 8.00 (step 0)", "-25.0 (step 10)")]


def test_function_names_may_hold_slashes() -> None:
    rows = [{"step": 1, "rewards/rewards/mine.py:f/mean": 1.0, "rewards/b/mean": None, "rewards/b/std": 1.0}]
    assert function_names(rows) == ["rewards/mine.py:f", "b"]
