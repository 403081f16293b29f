"""The progress of a run, from its records alone, for the screens."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from groupwise.runs.metrics import held_out_rewards
from groupwise.runs.text import moving_average
from groupwise.runs.transcript import transcript_of
from groupwise.types import StepGroup

WINDOW = 10
"""Steps in the moving average of the reward."""

_RECENT = 20
"""Steps that the time left is estimated from; half of a longer run, so that rare evaluations weigh what they cost."""

PARTS = ("rollout", "reward", "learn", "other")

_OF_TURNS = (("turns", "environment/turns/mean"), ("calls", "tools/call_frequency"))


@dataclass
class Progress:
    """The state of a screen: fed by the calls of `Screen`, read by what draws."""

    clock: Callable[[], float] = time.monotonic
    summary: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    groups: Sequence[StepGroup] = ()
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    rewards: list[float | None] = field(default_factory=list)
    lengths: list[float | None] = field(default_factory=list)
    phase: tuple[str, int, int] = ("", 0, 0)
    _started: float = 0.0
    _finished: list[tuple[int, float]] = field(default_factory=list)
    """Every step that was finished while the screen watched, and when; before them the step it began after."""

    def start(self, summary: Mapping[str, Any]) -> None:
        self.summary, self.metrics, self.evaluation, self.groups = summary, {}, {}, ()
        self.rewards, self.lengths = [], []
        self._started = self.clock()
        for record in summary.get("history", ()):
            self._remember(record)
        self._finished = [(self.steps_done, self._started)]

    def step(self, metrics: Mapping[str, Any], groups: Sequence[StepGroup]) -> None:
        self._finished.append((int(metrics["step"]), self.clock()))
        self.groups = groups
        self.phase = ("", 0, 0)
        self._remember(metrics)

    def evaluated(self, metrics: Mapping[str, Any]) -> None:
        """An evaluation after a step is part of its time; one before the first step is left out."""
        self.evaluation = metrics
        if metrics["step"] == self._finished[0][0]:
            self._finished = [(metrics["step"], self.clock())]

    def _remember(self, metrics: Mapping[str, Any]) -> None:
        self.metrics = metrics
        self.rewards.append(metrics.get("reward"))
        self.lengths.append(metrics.get("completions/mean_length"))
        if any(metrics[key] is not None for _, key in held_out_rewards(metrics)):
            self.evaluation = metrics

    @property
    def num_steps(self) -> int | None:
        """How many steps the run takes; None when nobody said."""
        steps = self.summary.get("steps")
        return None if steps is None else int(steps)

    @property
    def steps_done(self) -> int:
        return int(self.metrics.get("step", 0))

    @property
    def share_done(self) -> float:
        """Of the whole run, between 0 and 1."""
        return min(1.0, self.steps_done / self.num_steps) if self.num_steps else 0.0

    @property
    def seconds_elapsed(self) -> float:
        return self.clock() - self._started

    @property
    def seconds_a_step(self) -> float | None:
        """From the end of one step to the end of the next, evaluations and checkpoints included; None before the first.

        The first step warms up, so it counts only until there is a second one.
        """
        if len(self._finished) < 2:
            return None
        warm = self._finished[1:] if len(self._finished) > 2 else self._finished
        latest = warm[-1 - max(_RECENT, len(warm) // 2) :]
        (first, begun), (last, ended) = latest[0], latest[-1]
        return (ended - begun) / max(1, last - first)

    @property
    def seconds_left(self) -> float | None:
        """Steps left x the time of one, less what the current one has taken; None before the first."""
        each = self.seconds_a_step
        if not self.num_steps or each is None:
            return None
        in_this_step = min(each, self.clock() - self._finished[-1][1])
        return max(0.0, (self.num_steps - self.steps_done) * each - in_this_step)

    @property
    def averages(self) -> list[float | None]:
        return moving_average(self.rewards, WINDOW)

    @property
    def functions(self) -> dict[str, float | None]:
        """Mean reward of each function in the latest step; nothing for a single one, which is the reward itself."""
        found = (key.split("/") for key in self.metrics if key.startswith("rewards/") and key.endswith("/mean"))
        names = ["/".join(parts[1:-1]) for parts in found]
        return {name: self.metrics[f"rewards/{name}/mean"] for name in names} if len(names) > 1 else {}

    @property
    def seconds_by_part(self) -> list[float]:
        """Seconds of the latest step in the order of `PARTS`."""
        return [float(self.metrics.get(f"time/{part}") or 0.0) for part in PARTS]


@dataclass(frozen=True, slots=True)
class ShownCompletion:
    """One completion to show, with its place in its group."""

    prompt: str
    text: str
    reward: float
    lowest: float
    highest: float


def of_turns(metrics: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Label and value of what a step measured of turns; nothing where no environment answered."""
    return [(label, metrics[key]) for label, key in _OF_TURNS if metrics.get(key) is not None]


def typical_sample(groups: Sequence[StepGroup]) -> ShownCompletion | None:
    """The completion of median reward in the first scored group: neither the luckiest nor the worst."""
    for group in groups:
        scored = sorted((r, i) for i, r in enumerate(group.reward) if r is not None)
        if scored:
            reward, index = scored[len(scored) // 2]
            text = transcript_of(group.completions[index])
            return ShownCompletion(prompt_text(group.problem.prompt), text, reward, scored[0][0], scored[-1][0])
    return None


def prompt_text(prompt: str | list[dict[str, Any]]) -> str:
    """The prompt as a reader wants it: the last message of a chat."""
    if isinstance(prompt, str):
        return prompt
    content = prompt[-1].get("content", "") if prompt else ""
    parts = content if isinstance(content, list) else [content]
    return "".join(str(part.get("text", "") if isinstance(part, dict) else part) for part in parts)
