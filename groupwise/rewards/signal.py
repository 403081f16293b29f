"""The test for signal in a group, behind skipping, dynamic sampling and the metric.

A group without signal has advantages of exactly 0 against its own group. Which rewards have to differ depends on what
the advantages are computed from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from groupwise.rounding import differ
from groupwise.types import ScoredGroup, Steps

SignalOf = Literal["sum", "any_function", "steps"]
"""Advantages are computed from the weighted sum; from each function on its own (GDPO, 2601.05242: sums may tie where
functions differ); from the rewards of steps (process supervision)."""


def has_signal(
    of: SignalOf,
    reward: Sequence[float | None],
    shaped: Mapping[str, Sequence[float | None]],
    steps: Sequence[Steps],
) -> bool:
    """Whether two scored rewards of a group differ by more than rounding (rounding.py).

    `reward` is the weighted sum of each completion, `shaped` the rewards of each function, `steps` those of steps.
    """
    if of == "steps":
        return differ(value for each in steps for _, value in each)
    if of == "any_function":
        return any(differ(values) for values in shaped.values())
    return differ(reward)


def weighted_steps(group: ScoredGroup, weights: Sequence[float]) -> list[Steps]:
    """Weighted rewards of the steps of each completion, under every function.

    A function that gave one number has one step, which ends with the completion; an empty completion has none.
    """
    found: list[Steps] = []
    for i, completion in enumerate(group.completions):
        steps: list[tuple[int, float | None]] = []
        for weight, (name, rewards) in zip(weights, group.shaped_rewards.items(), strict=True):
            scored = group.steps[name][i] if name in group.steps else None
            whole = ((len(completion.token_ids), rewards[i]),) if completion.token_ids else ()
            pairs = whole if scored is None else scored
            steps += [(end, None if reward is None else weight * reward) for end, reward in pairs]
        found.append(tuple(steps))
    return found
