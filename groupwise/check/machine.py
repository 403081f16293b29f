"""Checks of numbers, memory, time and the run folder, before the first step."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

from groupwise.check.cost import Cost, cause_of_gap, guards_of_mismatch
from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding, Level
from groupwise.runs.folder import RunFolder
from groupwise.runs.text import duration

MEMORY_WARN = 0.9
"""Share of the machine's memory: beyond it longer completions than those of the check do not fit."""
LONG_RUN_S = 7 * 24 * 3600.0
"""A week: nobody starts such a run without meaning to."""


def engines_disagree(evidence: Evidence, cost: Cost) -> list[Finding]:
    """Engine and learner give one token two probabilities. The bounds are those of the guards of the run."""
    if cost.mismatch is None:
        return []
    for guard, setting in guards_of_mismatch(evidence.run):
        if not guard.is_beyond(cost.mismatch, setting.threshold):
            continue
        level: Level = "fail" if setting.action == "stop" else "warn"
        cause = cause_of_gap(evidence.run, evidence.sampled.groups, setting.threshold)
        sentence = _capital(guard.message.format(value=cost.mismatch))
        what = f"{sentence} (guard {guard.name}: {guard.bound(setting)}). {_capital(cause)}"
        return [Finding("engines_disagree", level, what, guard.remedy)]
    return []


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def not_finite(evidence: Evidence, cost: Cost) -> list[Finding]:
    """The first update would have to be left out."""
    if cost.why_skipped is None:
        return []
    return [
        Finding("not_finite", "fail", f"The first update is not finite: {cost.why_skipped}.", "Set dtype: float32.")
    ]


def memory_short(evidence: Evidence, cost: Cost) -> list[Finding]:
    """Hardly any memory is left."""
    if cost.memory_bytes is None or cost.memory_total_bytes is None:
        return []
    share = cost.memory_bytes / cost.memory_total_bytes
    if share < MEMORY_WARN:
        return []
    run = evidence.run
    concurrent = run.config.max_concurrent_completions or run.policy.policy_model.limits.concurrent
    what = f"{cost.memory_bytes / 2**30:.1f} of {cost.memory_total_bytes / 2**30:.1f} GiB of memory are used."
    remedy = f"Set max_concurrent_completions: {max(concurrent // 2, 1)}, then a smaller micro_batch_tokens."
    return [Finding("memory_short", "warn", what, remedy)]


def long_run(evidence: Evidence, cost: Cost) -> list[Finding]:
    """The run would take more than a week."""
    if not math.isfinite(cost.total_s) or cost.total_s < LONG_RUN_S:
        return []
    fitting = max(int(LONG_RUN_S / cost.step_s), 1)
    what = f"{cost.num_steps} steps of {cost.step_s:.0f} s take about {duration(cost.total_s)}."
    return [Finding("long_run", "note", what, f"Set max_steps: {fitting} for a run of a week.")]


def folder_taken(evidence: Evidence, cost: Cost) -> list[Finding]:
    """A run lies in `output_dir` already, so `train` would refuse it."""
    path = evidence.run.config.output_dir
    if not RunFolder(Path(path)).has_trained:
        return []
    what = f'"{path}" holds a run already, and `groupwise train` does not write over one.'
    return [Finding("folder_taken", "note", what, "Set another output_dir, or train with --resume or --overwrite.")]


CHECKS: tuple[Callable[[Evidence, Cost], list[Finding]], ...] = (
    engines_disagree,
    not_finite,
    memory_short,
    long_run,
    folder_taken,
)
