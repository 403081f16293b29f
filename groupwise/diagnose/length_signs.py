"""Signs of lengths that go wrong: padding up to the limit, collapse, completions cut off before they are paid."""

from __future__ import annotations

import math
from statistics import fmean, variance

from groupwise.diagnose.diagnosis import Diagnosis, examples_of
from groupwise.diagnose.run_view import RunView, num_sampled, places
from groupwise.runs.text import number

GROWN, SHRUNK = 1.5, 0.5
"""Length at the end as a multiple of the first steps'."""
NEAR_LIMIT = 0.8
"""Share of max_completion_length that the mean length has come to."""
CUT = 0.5
"""Share of completions cut off at the end: the bound of the metric `completions/clipped_ratio`."""
FEWEST_STEPS = 10
"""Steps after which most completions should end where this is learnt at all; the demo takes seven."""
FEWEST = 8
"""Completions of either kind that a difference in their rewards rests on."""


def length_grows(view: RunView) -> Diagnosis | None:
    """Completions grow toward the limit, and the reward does not rise."""
    found, limit = view.change("completions/mean_length"), view.setting("max_completion_length")
    if found is None or not limit or not found.is_up or view.reward_is_up:
        return None
    if found.last < GROWN * found.first or found.last < NEAR_LIMIT * limit:
        return None
    longest = sorted(places(view.late), key=lambda each: -num_sampled(each[1]))
    return Diagnosis(
        "length_grows",
        f"Completions grow to the limit of {limit:g} tokens, and the reward does not.",
        view.late_step,
        view.last_step,
        (f"Mean length: {found}.", *_by_advantage(view), f"Reward: {view.change('reward')}."),
        examples_of([place for place, _ in longest[:8]]),
        (
            "The loss divides by each completion's own length, so a long wrong answer costs less a token.",
            "The reward pays for length, or for anything that a long text holds somewhere.",
        ),
        "Set objective: dr_grpo (a constant divisor), or add a reward for ending: overlong_cache.",
        "likely",
    )


def length_collapses(view: RunView) -> Diagnosis | None:
    """Completions shrink to a fraction, and the reward does not rise with it."""
    found = view.change("completions/mean_length")
    if found is None or not found.is_down or view.reward_is_up or found.last > SHRUNK * found.first:
        return None
    shortest = sorted(places(view.late), key=lambda each: num_sampled(each[1]))
    return Diagnosis(
        "length_collapses",
        f"Completions shrink from {number(found.first)} to {number(found.last)} tokens, and the reward does not rise.",
        view.late_step,
        view.last_step,
        (f"Mean length: {found}.", *_by_advantage(view), f"Reward: {view.change('reward')}."),
        examples_of([place for place, _ in shortest[:8]]),
        (
            "A short completion is the safest: the others lose more by a wrong attempt.",
            "The learning rate is too high, and the policy has lost the text it came with.",
        ),
        "Give an empty or very short completion less than an honest wrong one, and lower learning_rate.",
        "likely",
    )


def truncation_costs(view: RunView) -> Diagnosis | None:
    """Most completions are cut off, ever as many, and those that are get less than the ones that end."""
    late, trend = view.late_mean("completions/clipped_ratio"), view.change("completions/clipped_ratio")
    if late is None or late < CUT or trend is None or trend.is_down or view.num_steps < FEWEST_STEPS:
        return None
    cut = [(place, c) for place, c in places(view.looked) if c["stop_reason"] == "length"]
    ended = [c for _, c in places(view.looked) if c["stop_reason"] in ("stop", "stop_string")]
    paid = [[c["reward"] for c in found if c["reward"] is not None] for found in ([c for _, c in cut], ended)]
    gap = _gap(*paid)
    is_masked = bool(view.objective.get("mask_truncated"))
    if not (is_masked or (gap is not None and gap[0] > 2 * gap[1]) or (late == 1 and not view.reward_is_up)):
        return None
    limit = view.setting("max_completion_length")
    return Diagnosis(
        "truncation_costs",
        f"{late:.0%} of the completions are cut off at max_completion_length {limit:g}"
        + (", and are masked." if is_masked else ", before what the reward pays for."),
        view.late_step,
        view.last_step,
        (
            f"Cut off: {trend}.",
            *([f"Ended ones get {number(gap[0])} ± {number(gap[1])} more than cut ones."] if gap else []),
        ),
        examples_of([place for place, _ in cut]),
        ("max_completion_length is too small for this task.", "The model does not end its answers."),
        f"Set max_completion_length: {4 * limit:g}, or tell the model to be brief (system_prompt).",
        "certain" if gap is not None or is_masked else "likely",
    )


def _by_advantage(view: RunView) -> list[str]:
    keys = [("better", "positive"), ("worse", "negative")]
    means = [(word, view.late_mean(f"completions/mean_length_{sign}_advantage")) for word, sign in keys]
    if any(mean is None for _, mean in means):
        return []
    return ["At the end " + ", ".join(f"the {word} ones of a group take {number(mean)}" for word, mean in means) + "."]


def _gap(cut: list[float], ended: list[float]) -> tuple[float, float] | None:
    """How much more ended completions get, and its standard error; None with too few of either."""
    if min(len(cut), len(ended)) < FEWEST:
        return None
    return fmean(ended) - fmean(cut), math.sqrt(variance(ended) / len(ended) + variance(cut) / len(cut))
