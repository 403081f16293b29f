"""Signs of lost time: a reward slower than the rollout, one long completion that the step waits for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from groupwise.diagnose.diagnosis import Diagnosis, examples_of
from groupwise.diagnose.run_view import FEWEST_LATE, RunView, num_sampled, places
from groupwise.runs.series import total
from groupwise.runs.text import duration

SLOW_SECONDS = 1.0
"""Seconds of a step's rewards below which making them faster is not worth the work: the bound of `groupwise check`."""
ALONE = 0.6
"""Share of a rollout's decode steps after nine of ten completions have ended: from here on the stragglers take longer
than all others together."""
ROLLOUT_SHARE = 0.4
"""Share of the time that the rollout takes: below, its stragglers cost little."""
FEWEST_COMPLETIONS = 8


def reward_slow(view: RunView) -> Diagnosis | None:
    """The machine waits longer for the rewards than for the completions."""
    rewards, rollout = (total(view.records, f"time/{part}") for part in ("reward", "rollout"))
    if view.num_steps < FEWEST_LATE or rewards <= rollout or rewards < SLOW_SECONDS * view.num_steps:
        return None
    seconds = {name: total(view.records, f"rewards/{name}/seconds") for name in view.functions}
    slowest = max(seconds, key=lambda name: seconds[name], default="")
    return Diagnosis(
        "reward_slow",
        f'Scoring takes longer than sampling; the slowest function is "{slowest}".',
        int(view.records[0]["step"]),
        view.last_step,
        (
            f"In {view.num_steps} steps {duration(rewards)} of waiting for rewards, {duration(rollout)} of sampling.",
            *(f"{name}: {value / view.num_steps:.1f} s a step." for name, value in seconds.items()),
        ),
        (),
        ("The function judges one completion after the other.", "It waits for a network, or starts a program."),
        f"Make {slowest} an `async def`, judge the whole batch at once, or keep what it computes in a cache.",
        "certain",
    )


def straggler_holds(view: RunView) -> Diagnosis | None:
    """Most of a rollout is spent on the longest completion or two."""
    rollout, seconds = (total(view.records, key) for key in ("time/rollout", "step_time"))
    if view.num_steps < FEWEST_LATE or rollout < ROLLOUT_SHARE * seconds:
        return None
    lengths: dict[int, list[int]] = defaultdict(list)
    for (step, _, _), completion in places(view.looked):
        lengths[step].append(num_sampled(completion))
    alone = {step: _alone(found) for step, found in lengths.items() if len(found) >= FEWEST_COMPLETIONS}
    if not alone or fmean(alone.values()) < ALONE:
        return None
    longest = sorted(places(view.late), key=lambda each: -num_sampled(each[1]))
    worst = max(alone, key=lambda step: alone[step])
    return Diagnosis(
        "straggler_holds",
        f"{fmean(alone.values()):.0%} of a rollout waits for one completion in ten.",
        min(alone),
        view.last_step,
        (
            f"Read were {len(alone)} steps; the worst is step {worst} with {alone[worst]:.0%}.",
            f"The rollout takes {rollout / seconds:.0%} of the time: about {duration(fmean(alone.values()) * rollout)} "
            f"of {duration(seconds)}.",
        ),
        examples_of([place for place, _ in longest[:8]]),
        ("A few completions run to max_completion_length.", "The batch is small beside what the machine can decode."),
        "Set a smaller max_completion_length with overlong_cache: 0.2, or more prompts_per_step, so that others fill "
        "the wait.",
        "likely",
    )


def _alone(lengths: Sequence[int]) -> float:
    """Share of the longest completion's tokens that came after nine of ten had ended."""
    ordered = sorted(lengths)
    return 1 - ordered[int(0.9 * (len(ordered) - 1))] / max(ordered[-1], 1)
