"""Measures of the guards: one number a step each. The table with bounds and remedies is `config/guards.py`.

A measure is None for a step that it does not apply to. Its `memory` is a list of numbers that lasts from step to step
and is part of the checkpoint.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from groupwise.config.guards import FIRST_STEPS, SMALLEST_GAP
from groupwise.train.learner import Update
from groupwise.types import Completion, ScoredGroup

WINDOW = 50
"""Gradient norms that the usual one is the median of."""
FEWEST_NORMS = 10
"""No norm is called unusual before so many have been view."""
LARGEST_GAP = {True: 1e-3, False: 0.15}
"""In float32, and in lower precision: the bounds of the guards `agreement` and `precision_limit`."""
FEWEST_TOKENS = 8
"""A shorter completion may repeat a token without being degenerate."""
REPEATED_SHARE = 0.9


@dataclass(frozen=True)
class StepView:
    """What the measures read of a step."""

    metrics: Mapping[str, Any]
    groups: Sequence[ScoredGroup]
    update: Update
    is_float32: bool = False
    """Whether the run multiplies in float32, where engine and learner differ by less."""
    is_current: bool = True
    """Whether its completions are of the weights that it began with; with `rollout_lag` they are of older ones."""

    @property
    def mismatch(self) -> float | None:
        """That of engine and learner under the same weights; None where there is none to measure."""
        return self.metrics["sampling/mismatch"] if self.is_current else None


Measure = Callable[[StepView, list[float]], float | None]


def skipped_in_a_row(view: StepView, memory: list[float]) -> float:
    """The most updates left out in a row, the steps before counted too."""
    row, longest = (memory[0] if memory else 0.0), 0.0
    for why in view.update.why_skipped:
        row = row + 1 if why is not None else 0.0
        longest = max(longest, row)
    memory[:] = [row]
    return longest


def repeated_token(view: StepView, memory: list[float]) -> float:
    return _share(view, _repeats_a_token)


def _repeats_a_token(completion: Completion) -> bool:
    ids = completion.sampled_ids
    return len(ids) >= FEWEST_TOKENS and max(Counter(ids).values()) >= REPEATED_SHARE * len(ids)


def empty(view: StepView, memory: list[float]) -> float:
    return _share(view, lambda completion: not completion.text.strip())


def truncated(view: StepView, memory: list[float]) -> float:
    return _share(view, lambda completion: completion.is_truncated)


def _share(view: StepView, test: Callable[[Completion], bool]) -> float:
    return fmean(test(completion) for group in view.groups for completion in group.completions)


def no_signal(view: StepView, memory: list[float]) -> float | None:
    """Of all groups that were drawn; None where nothing was scored: guard `unscored` reports that."""
    return None if unscored(view, []) == 1 else float(view.metrics["frac_reward_zero_std/drawn"])


def unscored(view: StepView, memory: list[float]) -> float:
    return fmean(reward is None for group in view.groups for reward in group.reward)


def grad_norm(view: StepView, memory: list[float]) -> float | None:
    """The norm as a multiple of the usual one. A step without signal has no norm to speak of."""
    norm = float(view.metrics["grad_norm"])
    if not math.isfinite(norm) or norm == 0:
        return None
    multiple = norm / median(memory) if len(memory) >= FEWEST_NORMS else None
    memory[:] = [*memory, norm][-WINDOW:]
    return multiple


def mismatch(view: StepView, memory: list[float]) -> float | None:
    """(mismatch - 1) as a multiple of what the first steps had; None until then."""
    value = view.mismatch
    if value is None:
        return None
    if len(memory) < FIRST_STEPS:
        memory.append(float(value) - 1)
        return None
    return (float(value) - 1) / max(median(memory), SMALLEST_GAP)


def gap(view: StepView, memory: list[float]) -> float | None:
    """(mismatch - 1) of the step as a multiple of what its precision allows: every token, row and position of it."""
    value = view.mismatch
    return None if value is None else (float(value) - 1) / LARGEST_GAP[view.is_float32]


def metric(key: str) -> Measure:
    """A number of the step's record as it is."""

    def read(view: StepView, memory: list[float]) -> float | None:
        value = view.metrics[key]
        return None if value is None else float(value)

    return read


MEASURES: dict[str, Measure] = {
    "non_finite": skipped_in_a_row,
    "repeated_token": repeated_token,
    "empty": empty,
    "truncated": truncated,
    "one_answer": metric("completions/distinct_answers"),
    "no_signal": no_signal,
    "unscored": unscored,
    "kl": metric("kl"),
    "grad_norm": grad_norm,
    "entropy": metric("entropy"),
    "mismatch": mismatch,
    "gap": gap,
}
"""Guard -> its measure, for the guards that look at every step."""
