"""The curriculum of a run: made from the configuration, and followed by every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from groupwise.config import GRPOConfig
from groupwise.data.curriculum import Curriculum, successes
from groupwise.data.levels import COLUMN, LevelRules, Levels, check_levels
from groupwise.data.order import Order
from groupwise.data.pools import PoolRules, Pools
from groupwise.data.prepare import PreparedProblems
from groupwise.data.problems import Problems
from groupwise.errors import ConfigError, did_you_mean
from groupwise.rewards.copies import without_arrays
from groupwise.runs.writer import RunWriter
from groupwise.train.step import Idle, StepRecord
from groupwise.types import Problem


def make_curriculum(problems: PreparedProblems, config: GRPOConfig) -> Curriculum | None:
    """The curriculum of a run; None for the plain order.

    Raises:
        DataError: the data has no levels to follow.
    """
    if config.curriculum == "none":
        return None
    if config.curriculum == "pools":
        names = ("easy_at", "hard_at", "margin", "patience", "easy_weight", "hard_weight")
        return Pools(problems.indices, PoolRules(**_settings(config, names)))
    values = [_level(problems[row].problem) for row in range(len(problems))]
    levels = check_levels(values, problems.problems.name, config.prompts_per_step)
    return Levels(problems.indices, levels, LevelRules(**_settings(config, ("window", "up_at", "down_at", "review"))))


def check_curriculum(config: GRPOConfig, names: Sequence[str], problems: Problems) -> None:
    """What can be wrong with a curriculum, before a model is loaded.

    Raises:
        ConfigError, DataError: it reads a reward, or levels, that are not there.
    """
    check_reward(config, names)
    if config.curriculum == "levels":
        check_levels([_level(problem) for problem in problems], problems.name, config.prompts_per_step)


def _level(problem: Problem) -> Any:
    return without_arrays(problem.columns.get(COLUMN))


def check_reward(config: GRPOConfig, names: Sequence[str]) -> None:
    """Raise `ConfigError` when the curriculum reads a reward that the run does not have."""
    reward = config.curriculum_reward
    if reward is not None and reward not in names:
        raise ConfigError(
            f'curriculum_reward is "{reward}", and the rewards are {", ".join(names)}.{did_you_mean(reward, names)}'
        )


class CurriculumHook(Idle):
    """Lets the curriculum learn from every step, dropped groups too, and reports what changed."""

    def __init__(self, order: Order, config: GRPOConfig, writer: RunWriter, notify: Callable[[str], None]) -> None:
        self._order, self._config, self._writer, self._notify = order, config, writer, notify

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        config, curriculum = self._config, self._order.curriculum
        if curriculum is None:
            return {}
        seen = successes(record.groups, config.curriculum_reward, config.curriculum_solved_at)
        for change in self._order.observe(seen):
            self._writer.event("curriculum", step=record.step, change=change)
            if config.curriculum == "levels":
                self._notify(f"Step {record.step}: {change}.")
        return curriculum.metrics()


def _settings(config: GRPOConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(config, f"curriculum_{name}") for name in names}
