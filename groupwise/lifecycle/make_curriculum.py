"""The curriculum that the configuration names, and the checks of what it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from groupwise.config import Settings
from groupwise.data.curriculum import Curriculum
from groupwise.data.levels import COLUMN, LevelRules, Levels, check_levels
from groupwise.data.pools import PoolRules, Pools
from groupwise.data.prepare import PreparedProblems
from groupwise.data.problems import Problems
from groupwise.errors import ConfigError, did_you_mean
from groupwise.rewards.copies import without_arrays
from groupwise.types import Problem


def make_curriculum(problems: PreparedProblems, config: Settings) -> Curriculum | None:
    """The curriculum of a run; None for the plain order.

    Raises:
        DataError: the data has no levels to follow.
    """
    if config.curriculum == "none":
        return None
    if config.curriculum == "pools":
        names = ("easy_at", "hard_at", "margin", "patience", "easy_weight", "hard_weight")
        return Pools(problems.indices, PoolRules(**_settings(config, names)))
    drawn = [problems[row].problem for row in range(len(problems))]
    levels = _levels(drawn, problems.problems.name, config)
    return Levels(problems.indices, levels, LevelRules(**_settings(config, ("window", "up_at", "down_at", "review"))))


def check_curriculum(config: Settings, names: Sequence[str], problems: Problems) -> None:
    """What can be wrong with a curriculum, before a model is loaded.

    Raises:
        ConfigError, DataError: it reads a reward, or levels, that are not there.
    """
    check_reward(config, names)
    if config.curriculum == "levels":
        _levels(problems, problems.name, config)


def _levels(problems: Sequence[Problem], name: str, config: Settings) -> list[int]:
    pairs = [(without_arrays(problem.columns.get(COLUMN)), problem.place) for problem in problems]
    values, places = zip(*pairs, strict=True)
    return check_levels(values, places, name, config.prompts_per_step)


def check_reward(config: Settings, names: Sequence[str]) -> None:
    """Raise `ConfigError` when the curriculum reads a reward that the run does not have."""
    reward = config.curriculum_reward
    if reward is not None and reward not in names:
        raise ConfigError(
            f'curriculum_reward is "{reward}", and the rewards are {", ".join(names)}.{did_you_mean(reward, names)}'
        )


def _settings(config: Settings, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(config, f"curriculum_{name}") for name in names}
