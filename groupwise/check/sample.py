"""A few groups from the untrained model: the first ones that training would draw, with the seeds of its first step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from groupwise.lifecycle.build import RunParts, make_order
from groupwise.train.collect import score_as_the_program
from groupwise.types import Group, ScoredGroup

FEWEST, MOST = 4, 8
"""Groups that are sampled by default: as many as a step has, within these bounds. More than eight would
be long to wait for, but for small groups."""
FEWEST_COMPLETIONS = 32
"""So many find what a tenth of the completions would get 19 times out of 20."""


@dataclass(frozen=True)
class Sampled:
    """Scored groups and what they took."""

    groups: tuple[ScoredGroup, ...]
    rollout_s: float
    """Of one step, estimated from the last round of sampling: the first one also builds kernels."""
    seconds: Mapping[str, float]
    """Reward function -> seconds of its call on all these completions."""
    reward_s: float

    @property
    def num_completions(self) -> int:
        return sum(len(group.completions) for group in self.groups)

    @property
    def signal_share(self) -> float:
        """Share of the groups whose rewards differ."""
        return sum(group.has_signal for group in self.groups) / len(self.groups)


def num_groups(run: RunParts, wanted: int | None) -> int:
    """How many groups to sample: what was asked for, else as many as a step has and as are worth looking at, never more
    than there are problems."""
    config = run.config
    usual = min(max(config.prompts_per_step, FEWEST), MOST)
    return min(wanted or max(usual, math.ceil(FEWEST_COMPLETIONS / config.num_generations)), len(run.problems))


def sample(run: RunParts, count: int, trainer_state: Any = None) -> Sampled:
    """Sample and score `count` groups, in rounds no larger than a step."""
    config = run.config
    order = make_order(run.problems, config)
    size = min(config.prompts_per_step, count)
    draws = [draw for _ in range(math.ceil(count / size)) for draw in order.draw(size)][:count]
    run.policy.policy_model.refresh()
    run.engine.load_weights(run.policy.policy_model, version=0)
    groups: list[Group] = []
    seconds = 0.0
    for start in range(0, len(draws), size):
        part = draws[start : start + size]
        begun = perf_counter()
        groups += run.sampler.sample(part, config.num_generations, step=1)
        seconds = (perf_counter() - begun) * config.prompts_per_step / len(part)
    begun = perf_counter()
    scored = score_as_the_program(run.training_scorer, groups, trainer_state)
    return Sampled(scored.groups, seconds, scored.seconds, perf_counter() - begun)
