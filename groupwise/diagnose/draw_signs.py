"""Signs of problems drawn in vain: a curriculum that is stuck, dynamic sampling that costs more than it brings."""

from __future__ import annotations

from statistics import fmean

from groupwise.diagnose.diagnosis import Diagnosis
from groupwise.diagnose.run_view import FEWEST_LATE, RunView
from groupwise.runs.series import Series, total
from groupwise.runs.text import duration

STUCK_STEPS = 20
"""Steps at one level, or with most problems in one pool, after which a curriculum is stuck."""
ONE_POOL = 0.75
"""Share of the problems in the hard pool: of four problems three are no longer drawn."""
DROPPED_TIME = 0.5
"""Share of the time of all steps that was spent on groups which were then dropped."""


def curriculum_stuck(view: RunView) -> Diagnosis | None:
    """A level that is never left and not solved, or a pool of hard problems that takes nearly all."""
    return _stuck_level(view) or _stuck_pool(view)


def _stuck_level(view: RunView) -> Diagnosis | None:
    levels, success = view.series("curriculum/level"), view.series("curriculum/level_success")
    if not levels or len(levels.steps) < STUCK_STEPS:
        return None
    level = levels.values[-1]
    changed = [step for step, value in _points(levels) if value != level]
    since = levels.steps[0] if not changed else next(step for step in levels.steps if step > changed[-1])
    at_level = [value for step, value in _points(success) if step >= since]
    up_at = view.setting("curriculum_up_at", 0.7)
    if view.last_step - since < STUCK_STEPS - 1 or not at_level or at_level[-1] >= up_at or _still_rises(at_level):
        return None
    return Diagnosis(
        "curriculum_stuck",
        f"The curriculum stays at level {level:g}.",
        since,
        view.last_step,
        (
            f"Since step {since} its success rate is {fmean(at_level):.2f} in the mean, {at_level[-1]:.2f} at last; "
            f"the next level begins at {up_at:g}.",
            f"Reward: {view.change('reward')}.",
        ),
        (),
        ("The step between two levels is too large.", "The reward that counts as solved is out of reach."),
        f"Set curriculum_up_at: {max(0.1, round(fmean(at_level), 1)):g}, or look at curriculum_solved_at.",
        "likely",
    )


def _stuck_pool(view: RunView) -> Diagnosis | None:
    hard, late = view.series("curriculum/hard"), view.late_mean("curriculum/hard")
    if late is None or len(hard.steps) < STUCK_STEPS or late < ONE_POOL:
        return None
    since = next(step for step, value in _points(hard) if value >= ONE_POOL)
    return Diagnosis(
        "curriculum_stuck",
        f"{late:.0%} of the problems are in the pool of hard ones, which is drawn seldom.",
        since,
        view.last_step,
        (f"curriculum/hard is {ONE_POOL:.0%} or more since step {since}.", f"Reward: {view.change('reward')}."),
        (),
        ("The problems are too hard for this model.", "The reward that counts as solved is out of reach."),
        "Take easier problems (data.split), or set curriculum_solved_at to a reward that is reached sometimes.",
        "likely",
    )


def dropping_costs(view: RunView) -> Diagnosis | None:
    """More than half of the time went into groups that dynamic sampling dropped."""
    used, dropped = (total(view.records, f"groups_{what}") for what in ("used", "dropped"))
    seconds = total(view.records, "step_time")
    if not dropped or view.num_steps < FEWEST_LATE:
        return None
    lost = total(view.records, "time/rollout") * dropped / (used + dropped)
    if lost < DROPPED_TIME * seconds:
        return None
    return Diagnosis(
        "dropping_costs",
        f"Dynamic sampling drops {dropped / (used + dropped):.0%} of the groups, and that takes {lost / seconds:.0%} "
        "of the time.",
        int(view.records[0]["step"]),
        view.last_step,
        (
            f"{dropped:,.0f} groups were dropped and {used:,.0f} used: about {duration(lost)} of {duration(seconds)} "
            "was spent on sampling the dropped ones.",
            f"A step draws {(used + dropped) / used:.1f} times its groups." if used else "No group was used.",
        ),
        (),
        ("Most problems are always or never solved.", "num_generations is too small for the success rate."),
        "Set curriculum: pools, which draws such problems seldom, or take problems of middle difficulty.",
        "certain",
    )


def _points(found: Series) -> list[tuple[int, float]]:
    return list(zip(found.steps, found.values, strict=True))


def _still_rises(values: list[float]) -> bool:
    half = len(values) // 2
    return half > 0 and fmean(values[half:]) > 1.1 * fmean(values[:half])
