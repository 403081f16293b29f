"""A group is solved where its rewards are the highest that there are, and not where they are above 0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from api_helpers import trainer
from histories import StopAfter, history
from scored import scored_group

from groupwise.lifecycle.solved import Solved
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.rewards.function import RewardFunction
from groupwise.train.step import StepRecord
from groupwise.types import Completion, Problem, StepGroup

KEY = "frac_reward_zero_std/solved"


def record(*rewards: tuple[float | None, ...], is_used: bool = True) -> StepRecord:
    groups = []
    for draw, reward in enumerate(rewards):
        completions = tuple(Completion((4,), (-1.0,), "stop", 0) for _ in reward)
        group = scored_group(draw, Problem(draw, "p"), (4,), completions, reward=reward)
        groups.append(StepGroup.of_scored(group, is_used=is_used or draw == 0))
    return StepRecord(1, {}, tuple(groups))


def shares(known: float | None, *steps: StepRecord) -> list[Any]:
    solved = Solved(known)
    return [solved.after_step(step)[KEY] for step in steps]


def test_the_highest_of_the_run_stands_in_for_what_a_function_can_give() -> None:
    failed, right = record((-5.0, -5.0), (-5.0, -5.0)), record((-1.0, -1.0), (-5.0, -5.0))
    assert shares(None, failed, right, failed, record((-1.0, -1.0), (-1.0, None))) == [0, 0.5, 0, 1]
    assert shares(None, record((1.0, 1.0))) == [0], "all equal from the start may be all wrong"
    assert shares(None, record((0.0, 0.0), (0.0, 0.0)), record((0.0, 2.0), (1.0, 1.0))) == [0, 0]


def test_what_functions_can_give_is_known_of_some() -> None:
    assert shares(1.0, record((1.0, 1.0), (0.5, 0.5))) == [0.5]
    assert shares(0.0, record((0.0, 0.0), (-1.0, -1.0))) == [0.5]
    assert shares(2.0, record((1.0, 1.0), (0.0, 0.0))) == [0]


def test_groups_that_were_dropped_are_seen_and_not_counted() -> None:
    assert shares(None, record((1.0, 1.0), (3.0, 3.0), is_used=False)) == [0]


def test_the_known_highest_is_the_weighted_sum_of_all() -> None:
    def mine(completions: list[str], **_: Any) -> list[float]:
        return [0.0]

    def highest(*rewards: Any) -> float | None:
        return RewardScorer(resolve_rewards(list(rewards))).highest

    assert highest("length") == 0.0
    assert highest({"name": "exact_match", "weight": 2.0}, {"name": "format", "weight": 0.5}, "length") == 2.5
    assert highest("exact_match", mine) is None
    assert highest({"name": "exact_match", "clip": [0, 0.5]}) is None
    assert RewardFunction("f", mine, -1.0).highest is None
    mine.highest = 3.0  # type: ignore[attr-defined]
    assert highest("exact_match", mine) == 4.0


@pytest.mark.parametrize("stop", [1, 2])
def test_a_resumed_run_remembers_what_was_seen(tmp_path: Path, stop: int) -> None:
    calls: list[int] = []

    def half_then_all(completions: list[Any], **_: Any) -> list[float]:
        calls.append(1)
        return [float(len(calls) > 1 or i < 2) for i in range(len(completions))]

    settings = {"rewards": half_then_all, "max_steps": 3, "beta": 0.0}
    trainer(tmp_path / "whole", **settings).train()
    calls.clear()
    trainer(tmp_path / "parts", rest={"callbacks": [StopAfter(stop)]}, **settings).train()
    trainer(tmp_path / "parts", **settings).train(resume_from_checkpoint=True)
    assert history(tmp_path / "parts") == history(tmp_path / "whole")
    assert [r[KEY] for r in history(tmp_path / "whole")] == [0.5, 1, 1]
