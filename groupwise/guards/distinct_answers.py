"""Measures how often the answers to different prompts differ: a policy that has collapsed gives all of them one.

A collapse to the commonest answer looks like success: the reward rises, and so does the held-out one.
"""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from groupwise.rewards.extract import answer_text
from groupwise.rewards.gold_answers import AnswerOf
from groupwise.train.step import Idle, StepRecord
from groupwise.types import Group

KEY = "completions/distinct_answers"


class DistinctAnswers(Idle):
    """Adds the metric to a step; `answer_of` finds the data's own answer to a problem, None where it has no answers."""

    def __init__(self, answer_of: AnswerOf | None) -> None:
        self._answer_of = answer_of

    def after_step(self, record: StepRecord) -> Mapping[str, Any]:
        return {KEY: distinct_answers(record.groups, self._answer_of)}


def distinct_answers(groups: Sequence[Group], answer_of: AnswerOf | None) -> float | None:
    """The share of pairs of answers to different prompts that differ, over that of the data's own answers."""
    if any(completion.turns for group in groups for completion in group.completions):
        return None
    expected: float | None = 1.0
    if answer_of is not None:
        answered = [(group, answer) for group in groups if (answer := answer_of(group.problem)) is not None]
        groups = [group for group, _ in answered]
        expected = _share_that_differ([[answer] for _, answer in answered])
    found = _share_that_differ([[completion.text for completion in group.completions] for group in groups])
    return found / expected if found is not None and expected else None


def _share_that_differ(texts: Sequence[Sequence[str]]) -> float | None:
    """Of two answers to different prompts, drawn at random: how likely they differ; None for fewer than two prompts.

    With p_g(a) the share of the prompt g's texts that give the answer a: 1 - mean over g != h of sum_a p_g(a) p_h(a).
    """
    num = len(texts)
    if num < 2:
        return None
    shares = [{answer: n / len(each) for answer, n in Counter(map(_answer, each)).items()} for each in texts]
    total: dict[str, float] = defaultdict(float)
    for share in shares:
        for answer, part in share.items():
            total[answer] += part
    own = sum(part**2 for share in shares for part in share.values())
    equal = sum(part**2 for part in total.values()) - own
    return max(1 - equal / (num * (num - 1)), 0.0)


def _answer(text: str) -> str:
    found = answer_text(text)
    return " ".join((text if found is None else found).casefold().split()).strip(string.punctuation + " ")
