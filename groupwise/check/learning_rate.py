"""Check of the learning rate: far out of the range in which this kind of training learns.

AdamW divides the gradient by its own size, so an update moves each trained number by about the learning rate, whatever
the reward: learning rate x updates bounds how far a number can get. An adapter has few numbers, which have to travel;
of the whole model's weights all move at once, and a small step of each is a large one of the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from groupwise.check.finding import Finding
from groupwise.lifecycle.build import RunParts
from groupwise.policy.adapter import has_adapter


@dataclass(frozen=True, slots=True)
class Range:
    """Where a kind of training learns. Adapters: measured (docs/choosing.md); all weights: a tenth of that and less."""

    what: str
    least_travel: float
    """Learning rate x updates: below it a run ends about where it began."""
    usual_travel: float
    """That of the recipes that learn in tens of updates."""
    high: float
    """A learning rate above which runs wander off sooner than they learn."""
    too_high: float
    usual: tuple[float, float]
    """Learning rates that are worth proposing."""


ADAPTER = Range("a number of the adapter", 2e-3, 2e-2, 5e-3, 5e-2, (1e-5, 1e-3))
WHOLE_MODEL = Range("a weight of the model", 2e-5, 5e-4, 1e-4, 1e-3, (1e-7, 2e-5))


def learning_rate(run: RunParts) -> list[Finding]:
    """A learning rate that ends the run where it began, or destroys the model. Of AdamW alone: its step is known."""
    if not run.config.optim.startswith("adamw"):
        return []
    is_adapter = has_adapter(run.policy.model)
    rate = run.config.peak_learning_rate(has_adapter=is_adapter)
    return of_rate(rate, run.schedule().num_updates, is_adapter=is_adapter)


def of_rate(rate: float, updates: int, *, is_adapter: bool) -> list[Finding]:
    """The finding about a learning rate of AdamW in a run of so many updates, if there is one."""
    known = ADAPTER if is_adapter else WHOLE_MODEL
    remedy = f"Set learning_rate: {_proposed(known, updates):.0e}."
    reason = f"AdamW moves {known.what} by about the learning rate an update"
    if rate > known.high:
        what = (
            f"learning_rate {rate:g} is far above what {_kind(is_adapter)} learns with ({known.usual[0]:g} to "
            f"{known.high:g}): {reason}, so a few of them undo what the model knows."
        )
        return [Finding("learning_rate", "fail" if rate > known.too_high else "warn", what, remedy)]
    if rate * updates >= known.least_travel:
        return []
    what = (
        f"learning_rate {rate:g} is too small for {updates} updates: {reason}, so by {rate * updates:.1g} at most in "
        f"the whole run; {_kind(is_adapter)} hardly learns below {known.least_travel:g}."
    )
    if known.usual[1] * updates < known.least_travel:
        remedy = f"Set max_steps: {math.ceil(known.usual_travel / known.usual[1])} or more, and learning_rate: "
        remedy += f"{known.usual[1]:.0e}."
    return [Finding("learning_rate", "fail" if rate == 0 else "warn", what, remedy)]


def _kind(is_adapter: bool) -> str:
    return "an adapter" if is_adapter else "full fine-tuning"


def _proposed(known: Range, updates: int) -> float:
    """The learning rate that takes a number as far as in recipes that learn."""
    low, high = known.usual
    return min(max(known.usual_travel / updates, low), high)


CHECKS: tuple[Callable[[RunParts], list[Finding]], ...] = (learning_rate,)
