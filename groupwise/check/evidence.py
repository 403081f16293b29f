"""Samples and statistics that the checks of rewards and completions read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

from groupwise.check.data import LOOK_AT
from groupwise.check.probes import GOLD, Probed
from groupwise.check.reward_stats import Scores, scores_of, total_of
from groupwise.check.sample import Sampled
from groupwise.diagnose.correlation import Agreement, agreements
from groupwise.lifecycle.build import RunParts
from groupwise.rewards.gold_answers import golds, is_of_user, labels_of
from groupwise.rounding import differ
from groupwise.types import Problem, ScoredGroup


@dataclass(frozen=True)
class Evidence:
    """The run, what its untrained model answers, and what the rewards make of that and of made-up answers."""

    run: RunParts
    sampled: Sampled
    probed: Sequence[Probed]
    again: Sequence[ScoredGroup] = ()
    """The sampled groups, scored a second time; none where that is not possible."""

    @cached_property
    def functions(self) -> list[Scores]:
        """One a reward function, in their order."""
        weights = {function.name: function.weight for function in self.run.training_scorer.functions}
        return scores_of(self.sampled, weights)

    @cached_property
    def total(self) -> Scores:
        """The weighted sum."""
        return total_of(self.sampled)

    @cached_property
    def agreements(self) -> list[Agreement]:
        return agreements(self.functions)

    def is_shipped(self, name: str) -> bool:
        """Whether a function is one of ours, whose rewards differ for sure between some completions."""
        function = next(each for each in self.run.training_scorer.functions if each.name == name)
        return not is_of_user(function)

    def usual_reason(self, name: str) -> str | None:
        """What a function gives most often as its reason for None; None where it gives none."""
        reasons = [
            reason
            for group in self.sampled.groups
            for reward, reason in zip(group.rewards[name], group.extras.get(f"{name}/why", ()), strict=False)
            if reward is None and reason
        ]
        return Counter(reasons).most_common(1)[0][0] if reasons else None

    def counted(self, name: str) -> list[float]:
        """What counts of a function's rewards, before the weight, of sampled completions and probes."""
        groups = [*self.sampled.groups, *(each.group for each in self.probed)]
        return [v for group in groups for v in group.shaped.get(name, group.rewards[name]) if v is not None]

    def probe_seconds(self, name: str) -> float:
        """Seconds a probe: what the function starts at its first call is not in it."""
        return self.probed[0].seconds.get(name, 0.0) / sum(each.num_scored for each in self.probed)

    @cached_property
    def answers(self) -> list[str]:
        """The right answers of the first rows; none where no column is known to hold them."""
        column = self.probed[0].column
        is_known = column is not None and any(GOLD in each.kinds for each in self.probed)
        found: Iterable[tuple[Problem, str]] = golds(self.run.inputs.problems, column) if is_known and column else ()
        return [text for _, text in islice(found, LOOK_AT)]

    @cached_property
    def labels(self) -> list[str]:
        """The answers, the most frequent first, where each is one of a few words."""
        return labels_of(self.answers)

    @property
    def can_differ(self) -> bool:
        """Whether some completion of a problem, sampled or made up, is rewarded otherwise than another."""
        return any(differ(row) for row in self.by_problem(None))

    @property
    def num_generations(self) -> int:
        return self.run.config.num_generations

    def by_problem(self, name: str | None) -> list[list[float]]:
        """Scored rewards of a function (None: the sum) for each problem, sampled completions and probes together."""
        rows = []
        for group, probed in zip(self.sampled.groups, self.probed, strict=True):
            pair = (
                (group.reward, probed.group.reward)
                if name is None
                else (group.rewards[name], probed.group.rewards[name])
            )
            rows.append([reward for values in pair for reward in values if reward is not None])
        return rows
