"""Signs of rewards that do not lead where they should: one function against the others, noise, held-out problems."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, pvariance

from groupwise.diagnose.correlation import Agreement, agreements
from groupwise.diagnose.diagnosis import Diagnosis, example, examples_of
from groupwise.diagnose.run_view import FEWEST_LATE, Place, RunView, completions, counted, has_signal, places, share
from groupwise.diagnose.trend import held_out_change
from groupwise.rounding import is_equal
from groupwise.runs.records import GroupRecord
from groupwise.runs.text import number

HELD_OUT_SHARE = 0.5
"""Of the gain in training: a held-out gain that is below it even two standard errors further up does not follow."""
DOMINATES = 0.9
"""Share of the spread inside groups that one function makes: the others together turn one advantage in ten."""
FEWEST_GROUPS = 8
LEARNT, NOT_LEARNT = 0.9, 0.25
"""Place of a function's mean between its lowest and its highest reward, from which on it is learnt, or not yet."""
FEWEST_NOISY = 2
"""Pairs of equal completions with different rewards: one may be a wall clock that struck in between."""
UNSCORED = 0.1
"""Share of completions without a reward: the bound of `groupwise check`."""


def held_out_still(view: RunView) -> Diagnosis | None:
    """The training reward rises, and the held-out reward less than half as much, whatever its noise."""
    trained, held_out = view.change("reward"), held_out_change(view.records)
    if trained is None or held_out is None or not trained.is_up:
        return None
    if held_out.difference + 2 * held_out.error >= HELD_OUT_SHARE * trained.difference:
        return None
    return Diagnosis(
        "held_out_still",
        "The reward rises on the training problems and not on held-out ones.",
        held_out.first.step,
        held_out.last.step,
        (
            f"Training: {trained}.",
            f"Held out ({held_out.label}): {held_out.first}, then {held_out.last}.",
        ),
        examples_of([place for place, _ in places(view.late)]),
        (
            "The policy learns the training problems by heart: too few of them for so many steps.",
            "The reward pays for something that only the training problems have.",
            "The held-out problems are of another kind (other source, other prompt).",
        ),
        "Take the checkpoint with the best held-out reward (load_best_model_at_end: true) and train on more problems.",
        "likely",
    )


def function_dominates(view: RunView) -> Diagnosis | None:
    """One function makes nearly all of the spread inside groups, and another one does not rise."""
    spread = _spread_by_function(view)
    if len(spread) < 2 or not sum(spread.values()):
        return None
    first = max(spread, key=lambda name: spread[name])
    part = spread[first] / sum(spread.values())
    left = [name for name in spread if name != first and not _rises(view, name) and not _is_learnt(view, name)]
    if part < DOMINATES or not left or not _rises(view, first):
        return None
    evidence = [f"{_moved(view, name)}" for name in (first, *left)]
    return Diagnosis(
        "function_dominates",
        f'Reward "{first}" makes {part:.0%} of what tells completions of a group apart; "{left[0]}" hardly counts.',
        view.steps[0],
        view.last_step,
        (f"Read were {len(_with_signal(view))} groups with signal of steps {_steps(view)}.", *evidence),
        examples_of(_disagreeing(view, first, left[0])),
        (
            f"The scale of {first} is larger than that of {', '.join(left)}.",
            f"{left[0]} is earned so seldom that it rarely differs inside a group.",
        ),
        "Give the functions one scale: combine: normalise_each, or a smaller weight of "
        f"{first} (weight: {number((view.weights or {})[first] * math.sqrt((1 - part) / part))}).",
        "likely",
    )


def functions_conflict(view: RunView) -> Diagnosis | None:
    """Two functions order the completions of a group the opposite way."""
    found = [each for each in _agreements(view) if each.is_conflict]
    if not found or view.num_steps < FEWEST_LATE:
        return None
    worst = min(found, key=lambda each: each.rho)
    return Diagnosis(
        "functions_conflict",
        f'Rewards "{worst.first}" and "{worst.second}" pull against each other.',
        view.steps[0],
        view.last_step,
        (
            f"Rank correlation inside groups {worst.rho:.2f} ± {worst.error:.2f} ({worst.num_pairs} completions of "
            f"{worst.num_groups} groups, steps {_steps(view)}).",
            _moved(view, worst.first),
            _moved(view, worst.second),
        ),
        examples_of(_disagreeing(view, worst.first, worst.second)),
        (
            f"What earns {worst.first} costs {worst.second}, such as a short answer and a complete one.",
            "One of the two has the wrong sign.",
        ),
        f"Gate one by the other (when: {{{worst.first}: 1}} on {worst.second}), or lower the weight of one of them.",
        "certain",
    )


def only_format_learnt(view: RunView) -> Diagnosis | None:
    """One function is learnt to the full, another one stays where it began."""
    learnt = [name for name in _weighted(view) if _rises(view, name) and _is_learnt(view, name)]
    left = [name for name in _weighted(view) if not _rises(view, name) and _is_low(view, name)]
    if not learnt or not left:
        return None
    return Diagnosis(
        "only_format_learnt",
        f'Reward "{learnt[0]}" is learnt and "{left[0]}" is not.',
        view.late_step,
        view.last_step,
        tuple(_moved(view, name) for name in (learnt[0], *left)),
        examples_of(_disagreeing(view, learnt[0], left[0])),
        (
            f"{learnt[0]} is easily earned, and once it is earned groups differ in nothing else.",
            f"The problems are too hard for {left[0]}: the right answer is never sampled.",
            f"{left[0]} reads the answer from another place than where the policy writes it.",
        ),
        f"Look at the two completions: where the answer is right and unpaid mend {left[0]}; else take easier problems "
        f"(data.split) until {left[0]} is earned sometimes.",
        "likely",
    )


def reward_noisy(view: RunView) -> Diagnosis | None:
    """Equal completions inside a group get different rewards of a function."""
    noises = [_noise_of(view, name) for name in view.reward_names]
    worst = max(noises, key=lambda noise: len(noise.different), default=None)
    if worst is None or len(worst.different) < FEWEST_NOISY:
        return None
    step, group, first, second, _ = worst.different[0]
    return Diagnosis(
        "reward_noisy",
        f'Reward "{worst.name}" gives the same completion different numbers.',
        step,
        worst.different[-1][0],
        (
            f"{len(worst.different):,} of {worst.num_pairs:,} pairs of equal completions inside a group differ in "
            f"their reward, by {number(fmean(gap for *_, gap in worst.different))} in the mean.",
        ),
        (example(step, group, first), example(step, group, second)),
        (
            "The function draws random numbers, or a language model judges at a temperature above 0.",
            "The function remembers earlier calls, or depends on the other completions of its call.",
            "A limit of time decides (a slow machine, a network).",
        ),
        f"Make {worst.name} a function of prompt and completion alone (judge at temperature 0, cache its replies).",
        "certain",
    )


def often_unscored(view: RunView) -> Diagnosis | None:
    """Many completions have no reward at all."""
    mean = view.late_mean("reward_unscored")
    found = [place for place, c in places(view.late) if c["reward"] is None]
    if mean is None or mean < UNSCORED or not found:
        return None
    count = sum(len(group["completions"]) for _, group in view.late)
    return Diagnosis(
        "often_unscored",
        f"{mean:.0%} of the completions are unscored: no reward function returned a number for them.",
        found[0][0],
        view.last_step,
        (f"Read at the end: {share(len(found), count)} without a reward.",),
        examples_of(found),
        ("The function fails or gives up on some completions.", "The environment or the judge breaks down."),
        "Return 0, not None, for an answer that is wrong or missing; keep None for what nobody could judge. `groupwise "
        "reward RECIPE --completions RUN` shows the reasons.",
        "certain",
    )


@dataclass(frozen=True)
class _Function:
    """The rewards of one function once they are clipped, normalised or gated, group by group."""

    name: str
    weight: float
    groups: Sequence[Sequence[float | None]]


def _weighted(view: RunView) -> list[str]:
    """Functions that count, where there are several of known weight."""
    weights = view.weights or {}
    names = [name for name, weight in weights.items() if weight]
    return names if len(names) > 1 else []


def _with_signal(view: RunView) -> list[tuple[int, GroupRecord]]:
    return [(step, group) for step, group in view.looked if has_signal(group)]


def _spread_by_function(view: RunView) -> dict[str, float]:
    """Sum over groups of the variance of what each function adds to the reward."""
    groups, weights = _with_signal(view), view.weights or {}
    if len(groups) < FEWEST_GROUPS or view.objective.get("combine") == "normalise_each":
        return {}
    spread: dict[str, float] = defaultdict(float)
    for _, group in groups:
        for name in _weighted(view):
            values = [v for c in group["completions"] if (v := counted(c, name)) is not None]
            spread[name] += pvariance([weights[name] * v for v in values]) if len(values) > 1 else 0.0
    return spread


def _agreements(view: RunView) -> list[Agreement]:
    weights, groups = view.weights or {}, [group for _, group in view.looked]
    return agreements(
        [
            _Function(name, weights[name], [[counted(c, name) for c in group["completions"]] for group in groups])
            for name in _weighted(view)
        ]
    )


def _rises(view: RunView, name: str) -> bool:
    """Whether the function's mean moves clearly in the direction of its weight."""
    found = view.change(f"rewards/{name}/mean")
    weight = (view.weights or {}).get(name, 1.0)
    return found is not None and (found.is_up if weight > 0 else found.is_down)


def _place(view: RunView, name: str) -> float | None:
    """Where the mean at the end lies between the lowest and the highest reward of a function that was seen."""
    values = [v for _, _, c in completions(view.looked) if (v := c["rewards"].get(name)) is not None]
    late = view.late_mean(f"rewards/{name}/mean")
    if not values or late is None:
        return None
    low, high = min(values), max(values)
    place = 0.0 if is_equal(low, high) else (late - low) / (high - low)
    return place if (view.weights or {}).get(name, 1.0) > 0 else 1 - place


def _is_learnt(view: RunView, name: str) -> bool:
    place = _place(view, name)
    return place is not None and place >= LEARNT


def _is_low(view: RunView, name: str) -> bool:
    place = _place(view, name)
    return place is not None and place <= NOT_LEARNT


def _moved(view: RunView, name: str) -> str:
    found = view.change(f"rewards/{name}/mean")
    return f"{name}: {found}." if found is not None else f"{name}: too few steps."


def _disagreeing(view: RunView, first: str, second: str) -> list[Place]:
    """Late completions in which the first function is at its best, those with the least of the second one in front."""
    found = [
        ((step, group, i), c["rewards"].get(first), c["rewards"].get(second))
        for (step, group, i), c in places(view.late)
    ]
    scored = [(place, a, b) for place, a, b in found if a is not None and b is not None]
    return [place for place, _, _ in sorted(scored, key=lambda each: (each[2] - each[1], each[0][0]))[:8]]


def _steps(view: RunView) -> str:
    steps = sorted({step for step, _ in view.looked})
    return f"{steps[0]} to {steps[-1]}"


@dataclass(frozen=True)
class _Noise:
    """Pairs of equal completions of a group, and those of them to which a function gave two numbers."""

    name: str
    num_pairs: int
    different: Sequence[tuple[int, GroupRecord, int, int, float]]
    """Step, group, the two places, and the gap."""


def _noise_of(view: RunView, name: str) -> _Noise:
    pairs = []
    for step, group in view.looked:
        for first, second in _equal_pairs(group):
            a, b = (group["completions"][i]["rewards"].get(name) for i in (first, second))
            if a is not None and b is not None:
                pairs.append((step, group, first, second, 0.0 if is_equal(a, b) else abs(a - b)))
    return _Noise(name, len(pairs), [pair for pair in pairs if pair[-1]])


def _equal_pairs(group: GroupRecord) -> Iterator[tuple[int, int]]:
    """Each completion that repeats an earlier one of its group token by token, with that one."""
    seen: dict[tuple[str, str], int] = {}
    for index, completion in enumerate(group["completions"]):
        key = (str(completion["ids"]), completion["stop_reason"])
        if key in seen:
            yield seen[key], index
        else:
            seen[key] = index
