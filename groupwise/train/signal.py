"""What the rewards of a group say: whether it has signal, and the rewards of its completions' steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from groupwise.config import GRPOConfig
from groupwise.rounding import differ
from groupwise.types import Group, Steps

SignalTest = Callable[[Group], bool]


def signal_test(config: GRPOConfig, reward_weights: Sequence[float] | None = None) -> SignalTest:
    """Whether a group's rewards tell its completions apart, in the form in which the advantages read them.

    One test for skipping, dynamic sampling and the metric. The weighted sum as a rule; any function where each is
    normalised on its own (GDPO: sums may tie where functions differ); any two steps with process supervision.
    """
    if config.process_rewards:
        return lambda group: differ(reward for steps in weighted_steps(group, reward_weights) for _, reward in steps)
    if config.resolved_objective.combine == "normalise_each":
        return lambda group: any(differ(rewards) for rewards in group.counting.values())
    return lambda group: group.has_signal


def weighted_steps(group: Group, reward_weights: Sequence[float] | None = None) -> list[Steps]:
    """The steps of each completion under every function; one number is one step that ends with the completion."""
    weights = reward_weights or [1.0] * len(group.rewards)
    found: list[Steps] = []
    for i, completion in enumerate(group.completions):
        steps: list[tuple[int, float | None]] = []
        for weight, (name, rewards) in zip(weights, group.counting.items(), strict=True):
            scored = group.steps[name][i] if name in group.steps else None
            whole = ((len(completion.token_ids), rewards[i]),) if completion.token_ids else ()
            pairs = whole if scored is None else scored
            steps += [(end, None if reward is None else weight * reward) for end, reward in pairs]
        found.append(tuple(steps))
    return found
