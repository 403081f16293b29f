"""The result of a step as one frozen value, its clock, and the protocol of the hooks that follow it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any, Protocol

from groupwise.train.batch import Batch
from groupwise.train.collect import Collected
from groupwise.train.learner import Update
from groupwise.types import ScoredGroup, StepGroup


@dataclass
class Clock:
    """Seconds of a step by part."""

    started: float = field(default_factory=perf_counter)
    parts: dict[str, float] = field(default_factory=lambda: {"rollout": 0.0, "reward": 0.0, "learn": 0.0})

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = perf_counter()
        yield
        self.parts[name] += perf_counter() - start

    def read(self) -> dict[str, float]:
        total = perf_counter() - self.started
        other = max(total - sum(self.parts.values()), 0.0)
        return {"step_time": total, **{f"time/{n}": s for n, s in self.parts.items()}, "time/other": other}


@dataclass(frozen=True)
class StepResult:
    """What one step made: scored groups, the batch of their tensors, the update, and the seconds it took."""

    step: int
    collected: Collected
    batch: Batch
    update: Update
    timing: Mapping[str, float]
    groups: tuple[StepGroup, ...]
    """Groups that were trained on with their advantages, then the dropped ones."""
    is_float32: bool = False
    """Whether the run multiplies in float32, where engine and learner differ by less."""

    @classmethod
    def of(
        cls, step: int, collected: Collected, batch: Batch, update: Update, clock: Clock, *, is_float32: bool = False
    ) -> StepResult:
        used = with_advantages(collected.groups, batch)
        dropped = tuple(StepGroup.of_scored(group, is_used=False) for group in collected.dropped)
        return cls(step, collected, batch, update, clock.read(), (*used, *dropped), is_float32)

    @property
    def used_groups(self) -> tuple[StepGroup, ...]:
        return tuple(group for group in self.groups if group.is_used)


def with_advantages(groups: tuple[ScoredGroup, ...], batch: Batch) -> tuple[StepGroup, ...]:
    """The groups with one advantage a completion: the mean over its tokens where they differ by token."""
    advantages = batch.advantages
    if advantages.dim() == 2:
        advantages = (advantages * batch.mask_NT).sum(1) / batch.mask_NT.sum(1).clamp(min=1)
    values = iter(advantages.tolist())
    return tuple(StepGroup.of_scored(g, advantages=tuple(next(values) for _ in g.completions)) for g in groups)


@dataclass(frozen=True)
class StepRecord:
    """What is recorded of a step: each hook reads it and adds metrics of its own."""

    step: int
    metrics: Mapping[str, Any]
    groups: tuple[StepGroup, ...] = ()
    """Empty where a resumed run finishes a step of an earlier process."""
    result: StepResult | None = None
    """None where a resumed run finishes a step of an earlier process."""
    is_evaluation_asked: bool = False
    """Whether a callback asked for an evaluation while the step was under way."""


class Hook(Protocol):
    """One concern of a run's life that follows its steps. Any method may do nothing."""

    def start(self) -> None:
        """Before the first step of this process; the engine has the weights."""

    def before_step(self, step: int) -> None:
        """Before anything of step `step` is drawn."""

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        """After the last change of a weight of a step; returns the metrics to add to its record."""
        ...

    def end(self) -> None:
        """After the last step of this process."""


class Idle:
    """A hook that does nothing: the base of those that do one thing."""

    def start(self) -> None:
        pass

    def before_step(self, step: int) -> None:
        pass

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        return {}

    def end(self) -> None:
        pass


class Hooks(Protocol):
    """What the train loop knows of them (`lifecycle/hooks.py`)."""

    def start(self) -> None: ...

    def before_step(self, step: int) -> None: ...

    def after_step(self, result: StepResult) -> None: ...

    def end(self) -> None: ...
