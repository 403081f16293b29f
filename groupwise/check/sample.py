"""A few groups from the untrained model: the first ones that training would draw, with the seeds of its first step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from groupwise.check.subject import Subject
from groupwise.data.order import Draw
from groupwise.lifecycle import build as setup
from groupwise.train.collect import make_group, score_as_the_program
from groupwise.train.signal import SignalTest, signal_test
from groupwise.types import Group, Request

FEWEST, MOST = 4, 8
"""Groups that are sampled when nobody says how many: as many as a step has, within these bounds. More than eight would
be long to wait for, but for small groups."""
FEWEST_COMPLETIONS = 32
"""So many find what a tenth of the completions would get 19 times out of 20."""


@dataclass(frozen=True)
class Sampled:
    """Scored groups and what they took."""

    groups: tuple[Group, ...]
    rollout_s: float
    """Of one step, estimated from the last round of sampling: the first one also builds kernels."""
    seconds: Mapping[str, float]
    """Reward function -> seconds of its call on all these completions."""
    reward_s: float
    has_signal: SignalTest

    @property
    def num_completions(self) -> int:
        return sum(len(group.completions) for group in self.groups)

    @property
    def signal_share(self) -> float:
        """Share of the groups whose rewards tell their completions apart."""
        return sum(map(self.has_signal, self.groups)) / len(self.groups)


def num_groups(subject: Subject, wanted: int | None) -> int:
    """How many groups to sample: what was asked for, else as many as a step has and as are worth looking at, never more
    than there are problems."""
    config = subject.parts.config
    usual = min(max(config.prompts_per_step, FEWEST), MOST)
    return min(wanted or max(usual, math.ceil(FEWEST_COMPLETIONS / config.num_generations)), len(subject.problems))


def sample(subject: Subject, count: int, trainer_state: Any = None) -> Sampled:
    """Sample and judge `count` groups, in rounds no larger than a step."""
    config = subject.parts.config
    order = setup.make_order(subject.problems, config)
    size = min(config.prompts_per_step, count)
    draws = [draw for _ in range(math.ceil(count / size)) for draw in order.draw(size)][:count]
    subject.policy.network.refresh()
    subject.engine.load_weights(subject.policy.network, version=0)
    groups: list[Group] = []
    seconds = 0.0
    for start in range(0, len(draws), size):
        part = draws[start : start + size]
        begun = perf_counter()
        groups += _roll_out(subject, part)
        seconds = (perf_counter() - begun) * config.prompts_per_step / len(part)
    begun = perf_counter()
    judged = score_as_the_program(subject.training_scorer, groups, trainer_state)
    reward_s = perf_counter() - begun
    test = signal_test(config, [function.weight for function in subject.training_scorer.functions])
    return Sampled(judged.groups, seconds, judged.seconds, reward_s, test)


def _roll_out(subject: Subject, draws: Sequence[Draw]) -> list[Group]:
    """Groups with the very completions that the first step would sample."""
    config = subject.parts.config
    requests = [
        Request(
            subject.problems[draw.row].prompt_ids,
            config.num_generations,
            subject.sampling,
            seed=(config.seed, 1, draw.number),
            decode=subject.decode,
            label=subject.problems[draw.row].problem.label,
        )
        for draw in draws
    ]
    answers = dict(subject.engine.generate(requests))
    return [make_group(draw, subject.problems, answers[i], subject.decode) for i, draw in enumerate(draws)]
