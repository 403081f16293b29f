"""What each guard watches, as one number a step. The table with bounds and remedies is `config/guards.py`.

A measure answers None for a step that it cannot judge. Its `memory` is a list of numbers that lasts from step to step
and is part of the checkpoint.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from groupwise.train.learner import Update
from groupwise.types import Completion, Group

WINDOW = 50
"""Gradient norms that the usual one is the median of."""
FEWEST_NORMS = 10
"""No norm is called unusual before so many have been seen."""
FIRST_STEPS = 5
"""Steps that say how far engine and learner of this run are apart."""
SMALLEST_GAP = 2.5e-4
"""A smaller gap counts as this one: growing from rounding to a little more rounding is no growth."""
LARGEST_GAP = {True: 1e-3, False: 0.15}
"""In float32, and in lower precision: the bounds of the guards `agreement` and `precision_limit`."""
FEWEST_TOKENS = 8
"""A shorter completion may repeat a token without being degenerate."""
REPEATED_SHARE = 0.9


@dataclass(frozen=True)
class Seen:
    """What a guard may look at when a step is done."""

    metrics: Mapping[str, Any]
    groups: Sequence[Group]
    update: Update
    is_float32: bool = False
    """Whether the run multiplies in float32, where engine and learner differ by less."""


Measure = Callable[[Seen, list[float]], float | None]


def skipped_in_a_row(seen: Seen, memory: list[float]) -> float:
    """The most updates left out in a row, the steps before counted too."""
    row, longest = (memory[0] if memory else 0.0), 0.0
    for why in seen.update.why_skipped:
        row = row + 1 if why is not None else 0.0
        longest = max(longest, row)
    memory[:] = [row]
    return longest


def repeated_token(seen: Seen, memory: list[float]) -> float:
    return _share(seen, _repeats_a_token)


def _repeats_a_token(completion: Completion) -> bool:
    ids = completion.token_ids
    return len(ids) >= FEWEST_TOKENS and max(Counter(ids).values()) >= REPEATED_SHARE * len(ids)


def empty(seen: Seen, memory: list[float]) -> float:
    return _share(seen, lambda completion: not completion.text.strip())


def truncated(seen: Seen, memory: list[float]) -> float:
    return _share(seen, lambda completion: completion.is_truncated)


def _share(seen: Seen, test: Callable[[Completion], bool]) -> float:
    return fmean(test(completion) for group in seen.groups for completion in group.completions)


def no_signal(seen: Seen, memory: list[float]) -> float | None:
    """Of all groups that were drawn. Where nothing was judged, that is what has to be said."""
    return None if not_judged(seen, []) == 1 else float(seen.metrics["frac_reward_zero_std/drawn"])


def not_judged(seen: Seen, memory: list[float]) -> float:
    return fmean(reward is None for group in seen.groups for reward in group.reward)


def grad_norm(seen: Seen, memory: list[float]) -> float | None:
    """The norm as a multiple of the usual one. A step without signal has no norm to speak of."""
    norm = float(seen.metrics["grad_norm"])
    if not math.isfinite(norm) or norm == 0:
        return None
    multiple = norm / median(memory) if len(memory) >= FEWEST_NORMS else None
    memory[:] = [*memory, norm][-WINDOW:]
    return multiple


def mismatch(seen: Seen, memory: list[float]) -> float | None:
    """(mismatch - 1) as a multiple of what the first steps had; None while these are being seen."""
    value = seen.metrics["sampling/mismatch"]
    if value is None:
        return None
    if len(memory) < FIRST_STEPS:
        memory.append(float(value) - 1)
        return None
    return (float(value) - 1) / max(median(memory), SMALLEST_GAP)


def gap(seen: Seen, memory: list[float]) -> float | None:
    """(mismatch - 1) of the step as a multiple of what its precision allows: every token, row and position of it."""
    value = seen.metrics["sampling/mismatch"]
    return None if value is None else (float(value) - 1) / LARGEST_GAP[seen.is_float32]


def metric(key: str) -> Measure:
    """A number of the step's record as it is."""

    def read(seen: Seen, memory: list[float]) -> float | None:
        value = seen.metrics[key]
        return None if value is None else float(value)

    return read


MEASURES: dict[str, Measure] = {
    "non_finite": skipped_in_a_row,
    "repeated_token": repeated_token,
    "empty": empty,
    "truncated": truncated,
    "no_signal": no_signal,
    "not_judged": not_judged,
    "kl": metric("kl"),
    "grad_norm": grad_norm,
    "entropy": metric("entropy"),
    "mismatch": mismatch,
    "gap": gap,
}
"""Guard -> its measure, for the guards that look at every step."""
