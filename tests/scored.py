"""Scored groups typed in by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from groupwise.rounding import differ
from groupwise.train.batch import Samples
from groupwise.types import Completion, Problem, ScoredGroup


def scored_group(
    draw: int,
    problem: Problem,
    prompt_ids: tuple[int, ...],
    completions: Sequence[Completion],
    rewards: Mapping[str, Sequence[float | None]] | None = None,
    reward: Sequence[float | None] | None = None,
    **others: Any,
) -> ScoredGroup:
    """A group with these rewards; `reward` is by default that of the first function."""
    named = {name: tuple(values) for name, values in (rewards or {"f": reward or ()}).items()}
    total = tuple(next(iter(named.values())) if reward is None else reward)
    others = {"has_signal": differ(total), **others}
    return ScoredGroup(draw, problem, prompt_ids, tuple(completions), rewards=named, reward=total, **others)


def samples(groups: Sequence[ScoredGroup]) -> Samples:
    """The groups laid flat on the CPU."""
    return Samples.of(groups, torch.device("cpu"))
