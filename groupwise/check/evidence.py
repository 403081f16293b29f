"""Everything that the checks of rewards and completions look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from .correlation import Agreement, agreements
from .probes import Probed
from .sample import Sampled
from .scores import Scores, scores_of, total_of
from .subject import Subject


@dataclass(frozen=True)
class Evidence:
    """The run, what its untrained model answers, and what the rewards make of that and of made-up answers."""

    subject: Subject
    sampled: Sampled
    probed: Sequence[Probed]

    @cached_property
    def functions(self) -> list[Scores]:
        """One a reward function, in their order."""
        weights = {function.name: function.weight for function in self.subject.training_judge.functions}
        return scores_of(self.sampled, weights)

    @cached_property
    def total(self) -> Scores:
        """The weighted sum."""
        return total_of(self.sampled)

    @cached_property
    def agreements(self) -> list[Agreement]:
        return agreements(self.functions)

    @property
    def num_generations(self) -> int:
        return self.subject.parts.config.num_generations

    def by_problem(self, name: str | None) -> list[list[float]]:
        """Judged rewards of a function (None: the sum) for each problem, sampled completions and probes together."""
        rows = []
        for group, probed in zip(self.sampled.groups, self.probed, strict=True):
            pair = (
                (group.reward, probed.group.reward)
                if name is None
                else (group.rewards[name], probed.group.rewards[name])
            )
            rows.append([reward for values in pair for reward in values if reward is not None])
        return rows
