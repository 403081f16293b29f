"""What a reward cannot use of the data is found, with its row, before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from groupwise.config import GRPOConfig
from groupwise.data import load_problems
from groupwise.errors import ConfigError, DataError, RewardError
from groupwise.lifecycle.inputs import check_rewards
from groupwise.lifecycle.make_curriculum import check_curriculum
from groupwise.rewards import RewardFunction, RewardScorer, resolve_rewards

from .groups import make_group

SOUND: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "number": ({"name": "number"}, "7", "seven"),
    "choice": ({"name": "choice"}, "B", "the second"),
    "code": ({"name": "code", "column": "answer"}, "assert double(3) == 6", "assert double(3 == 6"),
    "code, words": ({"name": "code", "column": "answer"}, ["assert double(3) == 6"], "see the book"),
}


@pytest.mark.parametrize("name", SOUND)
def test_the_row_of_an_answer_that_cannot_be_read_is_named(name: str) -> None:
    spec, sound, broken = SOUND[name]
    rewards = resolve_rewards(spec)
    rows = [{"prompt": f"problem {i}", "answer": sound} for i in range(3)]
    check_rewards(rewards, [load_problems(rows)])
    problems = load_problems([*rows[:2], {"prompt": "broken", "answer": broken}])
    with pytest.raises(DataError, match="row 3: Reward "):
        check_rewards(rewards, [load_problems(rows), problems])


def test_errors_of_data_and_of_rewards_count_rows_alike() -> None:
    """From 1, as docs/vocabulary.md says."""
    with pytest.raises(DataError, match="Row 2 of "):
        load_problems([{"prompt": "a"}, {"prompt": ""}])
    problem = load_problems([{"prompt": "a"}, {"prompt": "b"}])[1]
    group = replace(make_group("b", ["x", "y"]), problem=problem)
    with pytest.raises(RewardError, match=r"completion 1 of 2 \(row 2 of the data\): 'x'"):
        RewardScorer([RewardFunction.of(lambda completions: ["no number", 1.0])]).score([group])


def test_a_row_without_an_answer_is_unscored_and_no_error() -> None:
    rows = [{"prompt": "a", "answer": "1"}, {"prompt": "b", "answer": None}]
    check_rewards(resolve_rewards("number"), [load_problems(rows)])


def test_rewards_of_which_none_counts_are_refused() -> None:
    rewards = resolve_rewards([{"name": "number", "weight": 0}, {"name": "length", "target": 5, "weight": 0}])
    with pytest.raises(ConfigError, match="Every reward has weight 0"):
        check_rewards(rewards, [load_problems([{"prompt": "a", "answer": "1"}])])


def test_a_curriculum_that_reads_what_is_not_there_is_refused() -> None:
    problems = load_problems([{"prompt": "a", "answer": "1"}])
    with pytest.raises(ConfigError, match='Did you mean "number"'):
        check_curriculum(GRPOConfig(curriculum="pools", curriculum_reward="numbr"), ["number"], problems)
    with pytest.raises(DataError):
        check_curriculum(GRPOConfig(curriculum="levels"), ["number"], problems)
