"""What the compute of a run bought: tokens that gave gradient, time to each reward, the plan against what it took."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.diagnose.run_view import has_signal, num_sampled
from groupwise.diagnose.trend import reward_change
from groupwise.runs.reader import RunReader
from groupwise.runs.records import CompletionRecord, GroupRecord
from groupwise.runs.series import Record, last, seconds_trained, series
from groupwise.runs.text import duration, number, percent

GRADIENT, NO_SIGNAL, DROPPED, MASKED, UNSCORED = (
    *("gave gradient", "in groups without signal", "in groups that were dropped"),
    *("truncated and masked", "unscored"),
)
CAUSES = (GRADIENT, NO_SIGNAL, DROPPED, MASKED, UNSCORED)
"""What became of a sampled token, in the order of the headline."""
MOST_STEPS = 100
"""Steps whose completions are read: of a longer run every so many, so that the answer comes within seconds."""
LEVELS = (0.25, 0.5, 0.75, 0.9)
"""Shares of the way from the first reward to the last."""
WINDOW = 10
"""Steps that a reward is averaged over before it counts as reached."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class RewardReached:
    """When the mean reward of the last steps first came to a value."""

    reward: float
    step: int
    seconds: float
    """Of all steps up to it, evaluations left out."""
    num_tokens: int | None
    """Prompt and completion tokens up to it."""


@dataclass(frozen=True, slots=True)
class PlannedAmount:
    """One thing that was estimated before the run, and what it was."""

    what: str
    unit: str
    """"s" or "bytes"."""
    planned: float
    actual: float

    def __str__(self) -> str:
        planned, actual = (_amount(value, self.unit) for value in (self.planned, self.actual))
        return f"{self.what}: planned {planned}, was {actual} ({self.actual / self.planned:.2f} times)"


@dataclass(frozen=True, slots=True)
class ComputeUse:
    """Where the sampled tokens of a run went, and what they bought."""

    num_tokens: int
    """Completion tokens sampled in training; of a long run an estimate."""
    num_by_cause: Mapping[str, int]
    """Of the tokens that were read: what became of them (`CAUSES`) -> how many."""
    num_steps: int
    num_steps_read: int
    rewards_reached: tuple[RewardReached, ...]
    plan: tuple[PlannedAmount, ...]

    def share_of(self, cause: str) -> float:
        return self.num_by_cause.get(cause, 0) / max(1, sum(self.num_by_cause.values()))

    @property
    def headline(self) -> str:
        """The one sentence of screen, page and report; empty where no completions are recorded."""
        if not self.num_tokens:
            return ""
        rest = [f"{percent(self.share_of(c))} {c}" for c in CAUSES[1:] if round(self.share_of(c), 2) > 0]
        about = "About " if self.num_steps_read < self.num_steps else ""
        text = f"{about}{self.num_tokens:,} tokens sampled: {percent(self.share_of(GRADIENT))} {GRADIENT}"
        return ", ".join([text, *rest]) + "."

    @property
    def lines(self) -> list[str]:
        """The headline, the time to the last level that was reached, and the plan."""
        reached = [_reached(each) for each in self.rewards_reached[-1:]]
        return [line for line in (self.headline, *reached, *(f"{each}." for each in self.plan)) if line]


def compute_use(run: RunReader) -> ComputeUse:
    """What the compute of a run bought, as far as it has come.

    Raises:
        RunError: a record is damaged.
    """
    records, steps = run.metrics(), run.completion_steps()
    read = steps[:: max(1, -(-len(steps) // MOST_STEPS))]
    is_masked = bool(((run.config.get("recipe") or {}).get("objective") or {}).get("mask_truncated"))
    counts: Counter[str] = Counter()
    for step in read:
        for group in run.completions(step):
            counts.update(_tokens_by_cause(group, is_masked=is_masked))
    num_tokens = round(counts.total() * len(steps) / len(read)) if read else 0
    return ComputeUse(
        num_tokens, dict(counts), len(steps), len(read), tuple(rewards_reached(records)), tuple(_plan(run, records))
    )


def rewards_reached(records: Sequence[Record]) -> list[RewardReached]:
    """When a rising reward first came to each of `LEVELS` of its way; nothing where it did not clearly rise."""
    found = reward_change(records)
    if found is None or not found.is_up:
        return []
    rows = [record for record in records if record.get("reward") is not None]
    averages = series(rows, "reward").averaged(WINDOW).values
    seconds = list(itertools.accumulate(float(row.get("step_time") or 0.0) for row in rows))
    reached = []
    for level in LEVELS:
        reward = found.first + level * found.difference
        place = next((i for i, average in enumerate(averages) if average >= reward), None)
        if place is not None:
            tokens = rows[place].get("num_tokens")
            num_tokens = None if tokens is None else int(tokens)
            reached.append(RewardReached(reward, int(rows[place]["step"]), seconds[place], num_tokens))
    return reached


def _tokens_by_cause(group: GroupRecord, *, is_masked: bool) -> Counter[str]:
    counts: Counter[str] = Counter()
    signal = has_signal(group)
    for completion in group["completions"]:
        counts[_cause(group, completion, has_signal=signal, is_masked=is_masked)] += num_sampled(completion)
    return counts


def _cause(group: GroupRecord, completion: CompletionRecord, *, has_signal: bool, is_masked: bool) -> str:
    """What became of the tokens of a completion, as far as the reward is concerned: a KL term reads all used ones."""
    if not group["is_used"]:
        return DROPPED
    if completion["reward"] is None:
        return UNSCORED
    if is_masked and completion["stop_reason"] in ("length", "turns"):
        return MASKED
    return GRADIENT if has_signal else NO_SIGNAL


def _plan(run: RunReader, records: Sequence[Record]) -> list[PlannedAmount]:
    """What the run's record planned and its metrics measured."""
    plan: Mapping[str, Any] = run.config.get("plan") or {}
    step_times = series(records, "step_time").values
    measured = {
        "memory_bytes": ("memory", "bytes", last(records, "memory_peak_bytes") if _counts_alike(run) else None),
        "step_s": ("time of a step", "s", statistics.median(step_times) if step_times else None),
        "total_s": ("time of the run", "s", seconds_trained(records) if _is_whole(run, records) else None),
    }
    return [
        PlannedAmount(what, unit, float(plan[key]), float(actual))
        for key, (what, unit, actual) in measured.items()
        if plan.get(key) and actual
    ]


def _counts_alike(run: RunReader) -> bool:
    """Whether plan and peak are of one kind: a check measures the process, a plan without one counts the model."""
    plan, hardware = run.config.get("plan") or {}, run.config.get("hardware") or {}
    return "step_s" in plan or hardware.get("device") != "cpu"


def _is_whole(run: RunReader, records: Sequence[Record]) -> bool:
    """Whether the run has come to the end that was planned."""
    num_steps = (run.config.get("plan") or {}).get("num_steps")
    return bool(records) and num_steps is not None and int(records[-1]["step"]) >= num_steps


def _reached(each: RewardReached) -> str:
    tokens = "" if each.num_tokens is None else f" and {each.num_tokens:,} tokens, prompts included"
    return f"Reward {number(each.reward)} was reached at step {each.step}, after {duration(each.seconds)}{tokens}."


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value / GIB:.2f} GiB"
    return duration(value) if value >= 60 else f"{value:.1f} s"
