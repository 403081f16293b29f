"""Signs of groups without signal: all solved, all failed, a constant reward, G too small, problems too uneven."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from groupwise.diagnose.diagnosis import Diagnosis, examples_of
from groupwise.diagnose.run_view import FEWEST_LATE, Place, RunView, completions, has_signal, places, rewards_of, share
from groupwise.rounding import is_equal
from groupwise.runs.text import number

NO_SIGNAL = 0.75
"""Share of groups without signal at the end of a run: three groups of four are sampled for nothing."""
DEGREES = 3
"""Different rewards of whole problems from which on they do not look like problems that are solved always or never."""
FEWEST_GROUPS = 8
"""Groups from which on a share of them is worth something."""
ONE_KIND = 2 / 3
"""Share of the groups without signal that are solved (failed) where the run is called too easy (too hard)."""
HALF = 0.5
"""Share of groups with signal that a larger G should reach."""
OTHER_SIZES = (4, 8, 16, 32, 64)


def reward_constant(view: RunView) -> Diagnosis | None:
    """Every completion of a problem gets the same, and it is no reward of 0 for failing."""
    groups = [group for _, group in view.looked if len(rewards_of(group)) > 1]
    if len(groups) < FEWEST_GROUPS or view.span is None or any(map(has_signal, groups)):
        return None
    low, high = view.span
    everywhere = bool(is_equal(low, high))
    if (everywhere and low <= 0) or (not everywhere and len({round(rewards_of(g)[0], 6) for g in groups}) < DEGREES):
        return None
    what = (
        f"Every completion of every problem gets {number(low)}."
        if everywhere
        else f"Rewards differ between problems ({number(low)} to {number(high)}) and never inside a group."
    )
    count = sum(len(group["completions"]) for group in groups)
    return Diagnosis(
        "reward_constant",
        what,
        view.steps[0],
        view.last_step,
        (f"{count:,} completions of {len(groups)} groups were read: none differs from its own group in its reward.",),
        examples_of([place for place, _ in places(view.looked)]),
        (
            "The reward function does not read the completion (it reads the prompt or a column alone).",
            "Every problem is solved by every completion, from the first step on.",
        ),
        "Call the reward function on a right and on a wrong completion (groupwise.testing.assert_prefers), and mend it "
        "until they get different numbers.",
        "certain",
    )


def all_failed(view: RunView) -> Diagnosis | None:
    """Most groups have no signal, because every completion gets the lowest reward."""
    found = _without_signal(view)
    if found is None or found.share_of("failed") < ONE_KIND or _larger_size(view) is not None:
        return None
    best = _rate_of_best(view)
    seen = "none got more" if best is None else f"{best:.2%} got the highest one"
    return Diagnosis(
        "all_failed",
        f"{found.share:.0%} of the groups carry no signal: every completion of theirs fails.",
        found.first_step,
        view.last_step,
        (found.sentence, f"Of the completions that were read {seen}.", *_lowest(view)),
        examples_of(found.places["failed"]),
        (
            "The problems are too hard for this model.",
            "The reward asks for a form that the model never writes, or reads the wrong column.",
            "Completions are cut off before the answer (max_completion_length).",
        ),
        "Take easier problems (data.split), or add a reward for a first step that the model does take, such as "
        "{name: format, mode: soft}.",
        "certain" if found.share == 1 else "likely",
    )


def all_solved(view: RunView) -> Diagnosis | None:
    """Most groups have no signal, because every completion gets the highest reward, and nothing was learnt before."""
    found = _without_signal(view)
    if found is None or view.has_moved or found.share_of("solved") < ONE_KIND:
        return None
    return Diagnosis(
        "all_solved",
        f"{found.share:.0%} of the groups carry no signal: every completion of theirs gets the full reward.",
        found.first_step,
        view.last_step,
        (found.sentence,),
        examples_of(found.places["solved"]),
        (
            "The problems are too easy for this model.",
            "The reward is too easily earned: look at the two completions.",
        ),
        "Take harder problems (data.split), or set curriculum: pools to draw solved ones seldom.",
        "certain" if found.share == 1 else "likely",
    )


def group_too_small(view: RunView) -> Diagnosis | None:
    """Rewards differ, too seldom for groups of this size."""
    found, larger = _without_signal(view), _larger_size(view)
    if found is None or larger is None or view.has_moved:
        return None
    size, expected = int(view.setting("num_generations")), _expected_signal(view)
    rate = _rate_of_best(view)
    return Diagnosis(
        "group_too_small",
        f"Groups of {size} are too small for how seldom rewards differ: {found.share:.0%} carry no signal.",
        found.first_step,
        view.last_step,
        (
            found.sentence,
            *([] if rate is None else [f"{rate:.1%} of the completions that were read got the highest reward."]),
            f"Were all problems alike, {expected(size):.0%} of groups of {size} would carry signal, and "
            f"{expected(larger):.0%} of groups of {larger}.",
        ),
        examples_of(found.places["failed"] or found.places["solved"]),
        ("num_generations is too small for the success rate.", "The problems are too hard, or too easy."),
        f"Set num_generations: {larger}.",
        "likely",
    )


def always_or_never(view: RunView) -> Diagnosis | None:
    """Most groups have no signal, some solved and some failed: a larger G would not help."""
    found = _without_signal(view)
    kinds = ("solved", "failed")
    if found is None or view.has_moved or max(map(found.share_of, kinds)) >= ONE_KIND:
        return None
    if _larger_size(view) is not None or is_equal(*(view.span or (0.0, 0.0))):
        return None
    return Diagnosis(
        "always_or_never",
        f"{found.share:.0%} of the groups carry no signal: the policy solves a problem always or never.",
        found.first_step,
        view.last_step,
        (found.sentence,),
        examples_of([*found.places["solved"][:1], *found.places["failed"][:1]]),
        (
            "Few problems are of middle difficulty.",
            "The temperature is too low for completions to differ.",
            "The reward reads the problem alone, not the completion.",
        ),
        "Set dynamic_sampling: true to draw past these problems, or take problems of middle difficulty (data.split).",
        "likely",
    )


class _Found:
    """The groups without signal at the end of a run."""

    def __init__(self, view: RunView, share_late: float) -> None:
        self.view, self.share = view, share_late
        low, high = view.span or (math.nan, math.nan)
        if is_equal(low, high) and low > 0:  # one reward for everything is a case of its own
            low = math.nan
        self.places: dict[str, list[Place]] = {"solved": [], "failed": [], "other": []}
        for step, group in view.late:
            rewards = rewards_of(group)
            if rewards and not has_signal(group):
                is_low, is_high = is_equal(rewards[0], low), is_equal(rewards[0], high) and low < high
                kind = "failed" if is_low else "solved" if is_high else "other"
                self.places[kind].append((step, group, 0))

    def share_of(self, kind: str) -> float:
        count = sum(map(len, self.places.values()))
        return len(self.places[kind]) / count if count else 0.0

    @property
    def first_step(self) -> int:
        """From here on the share stays at the bound or above it."""
        found = self.view.series(self.view.no_signal_key)
        below = [step for step, value in zip(found.steps, found.values, strict=True) if value < NO_SIGNAL]
        late = self.view.late_step
        after = [step for step in found.steps if not below or step > below[-1]]
        return min(after[0], late) if after else late

    @property
    def sentence(self) -> str:
        kinds = ", ".join(f"{len(found)} {kind}" for kind, found in self.places.items() if found)
        view = self.view
        return (
            f"Steps {view.late_step} to {view.last_step}: {self.share:.0%} of the groups without signal; of those that "
            f"were read {kinds}."
        )


def _without_signal(view: RunView) -> _Found | None:
    """None where most groups carry signal, or too little was recorded."""
    late = view.late_mean(view.no_signal_key)
    if view.num_steps < FEWEST_LATE or late is None or late < NO_SIGNAL or len(view.late) < FEWEST_GROUPS:
        return None
    found = _Found(view, late)
    return found if any(found.places.values()) else None


def _larger_size(view: RunView) -> int | None:
    """The smallest larger G at which half of the groups would carry signal; None where none helps or none is needed."""
    size, expected = int(view.setting("num_generations")), _expected_signal(view)
    if not size or expected(size) >= HALF:
        return None
    return next((other for other in OTHER_SIZES if other > size and expected(other) >= HALF), None)


class _ExpectedSignal:
    """Share of groups of a size that have signal, were all problems alike: 1 - sum of (frequency of a value)^size."""

    def __init__(self, rewards: Sequence[float]) -> None:
        self._counts, self._total = Counter(round(reward, 6) for reward in rewards), len(rewards)

    def __call__(self, size: int) -> float:
        return 1 - sum((count / self._total) ** size for count in self._counts.values()) if self._total else 0.0


def _expected_signal(view: RunView) -> _ExpectedSignal:
    return _ExpectedSignal([c["reward"] for _, _, c in completions(view.late) if c["reward"] is not None])


def _rate_of_best(view: RunView) -> float | None:
    """Share of completions with the highest reward; None where all rewards are equal."""
    rewards = [c["reward"] for _, _, c in completions(view.looked) if c["reward"] is not None]
    if view.span is None or is_equal(*view.span):
        return None
    return sum(bool(is_equal(reward, view.span[1])) for reward in rewards) / len(rewards)


def _lowest(view: RunView) -> list[str]:
    if view.span is None:
        return []
    cut = [c for _, _, c in completions(view.late) if c["stop_reason"] == "length"]
    count = sum(len(group["completions"]) for _, group in view.late)
    return [f"{share(len(cut), count)} completions at the end were cut off at max_completion_length."] if cut else []
