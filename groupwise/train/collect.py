"""Collects the groups of a step: draws problems, samples and scores their groups; with dynamic sampling, draws again
for groups without signal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from groupwise.config import Settings
from groupwise.data import Order
from groupwise.data.order import Draw
from groupwise.rewards import RewardScorer
from groupwise.rewards.scorer import ScoredGroups
from groupwise.torch_settings import settings_of_program
from groupwise.train.sampler import PROBE, GroupSampler
from groupwise.types import Group, ScoredGroup

Progress = Callable[[str, int, int], None]
"""(phase, done, total) of a step."""


@dataclass(frozen=True)
class Collected:
    """The scored groups of one step and what they cost."""

    groups: tuple[ScoredGroup, ...] = ()
    """Those that the step trains on."""
    dropped: tuple[ScoredGroup, ...] = ()
    """Drawn and not trained on, for want of signal."""
    rollout_s: float = 0.0
    reward_s: float = 0.0
    function_s: Mapping[str, float] = field(default_factory=dict)
    """Reward function -> seconds of its calls."""
    logged: Mapping[str, float] = field(default_factory=dict)
    """Name given to `log_metric` -> its mean in the last call."""
    num_truncated_prompts: int = 0

    @property
    def all_groups(self) -> tuple[ScoredGroup, ...]:
        return (*self.groups, *self.dropped)

    def __add__(self, other: Collected) -> Collected:
        names = {**self.function_s, **other.function_s}
        return Collected(
            (*self.groups, *other.groups),
            (*self.dropped, *other.dropped),
            self.rollout_s + other.rollout_s,
            self.reward_s + other.reward_s,
            {name: self.function_s.get(name, 0.0) + other.function_s.get(name, 0.0) for name in names},
            {**self.logged, **other.logged},
            self.num_truncated_prompts + other.num_truncated_prompts,
        )

    def without_signal(self) -> list[ScoredGroup]:
        """The groups of the step whose advantages are all 0."""
        return [group for group in self.groups if not group.has_signal]

    def drop(self, dropped: Sequence[ScoredGroup]) -> Collected:
        """These groups are not trained on; those without signal that stay come last."""
        unused = {group.draw for group in dropped}
        ordered = sorted(self.groups, key=lambda group: not group.has_signal)
        kept = tuple(group for group in ordered if group.draw not in unused)
        return replace(self, groups=kept, dropped=(*self.dropped, *dropped))


class Collector:
    """Draws, samples and scores the groups of each step."""

    def __init__(
        self,
        order: Order,
        sampler: GroupSampler,
        scorer: RewardScorer,
        config: Settings,
        on_progress: Progress = lambda phase, done, total: None,
    ) -> None:
        self.order, self.sampler, self.scorer, self.config = order, sampler, scorer, config
        self.on_progress = on_progress
        self._greedy = sampler.greedy if config.objective.baseline == "greedy" else None

    def collect(self, step: int, trainer_state: Any = None) -> Collected:
        """The scored groups of one step; a draw is counted once, whatever becomes of it."""
        collected = self._round(self.order.draw(), step, trainer_state)
        if not self.config.dynamic_sampling:
            return collected
        draws_left = self.config.prompts_per_step * (self.config.dynamic_sampling_max_draws - 1)
        while True:
            without = collected.without_signal()
            num = min(len(without), draws_left, self.order.num_left_in_step)
            if num == 0:
                return collected
            draws_left -= num
            more = self._round(self.order.draw(num, same_step=True), step, trainer_state)
            collected = collected.drop(without[:num]) + more

    def _round(self, draws: Sequence[Draw], step: int, trainer_state: Any) -> Collected:
        """The groups of these draws."""
        start = perf_counter()
        groups = self.sampler.sample(draws, self.config.num_generations, step, self._on_sampled)
        sampled = perf_counter()
        self.on_progress("reward", 0, len(groups))
        scored = score_as_the_program(self.scorer, groups, trainer_state)  # before environments are used again
        rewarded = perf_counter()
        greedy = [] if self._greedy is None else self._greedy.sample(draws, 1, PROBE)
        probed = perf_counter()
        return Collected(
            self._with_greedy_rewards(scored.groups, greedy, trainer_state),
            (),
            sampled - start + probed - rewarded,
            rewarded - sampled + perf_counter() - probed,
            scored.seconds,
            scored.logged,
            sum(self.sampler.problems[draw.row].is_truncated for draw in draws),
        )

    def _with_greedy_rewards(
        self, groups: tuple[ScoredGroup, ...], greedy: Sequence[Group], trainer_state: Any
    ) -> tuple[ScoredGroup, ...]:
        if not greedy:
            return groups
        rewards = [group.reward[0] for group in score_as_the_program(self.scorer, greedy, trainer_state).groups]
        return tuple(replace(g, greedy_reward=r) for g, r in zip(groups, rewards, strict=True))

    def _on_sampled(self, done: int, total: int) -> None:
        self.on_progress("rollout", done, total)


def score_as_the_program(scorer: RewardScorer, groups: Sequence[Group], trainer_state: Any) -> ScoredGroups:
    """The groups with their rewards; the functions find torch as the program has set it."""
    with settings_of_program():
        return scorer.score(groups, trainer_state=trainer_state)
