"""Groups as flat rows for reward functions, one row a completion; and groups made of existing completions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

from groupwise.chat import CompletionValue, as_completion, completion_text, opening
from groupwise.errors import quoted
from groupwise.rewards.copies import copies
from groupwise.types import Completion, Group, Problem, Prompt

T = TypeVar("T")


@dataclass(frozen=True)
class FlatGroups:
    """The completions of some groups in order, each with its problem."""

    groups: Sequence[Group]
    column_names: Collection[str]

    @classmethod
    def of(cls, groups: Sequence[Group], column_names: Collection[str] | None = None) -> FlatGroups:
        """Lay the groups flat; without `column_names`, the columns are those that any of their problems has."""
        if column_names is None:
            column_names = dict.fromkeys(name for group in groups for name in group.problem.columns)
        return cls(groups, column_names)

    @cached_property
    def rows(self) -> list[tuple[Problem, Completion]]:
        return [(group.problem, completion) for group in self.groups for completion in group.completions]

    def keywords(self, accepts: Callable[[str], bool] = lambda name: True) -> dict[str, list[Any]]:
        """The keywords of a call, of the columns those that the function accepts.

        Each completion has a row of its own, copied for this call: a change to it reaches no other completion, call or
        epoch. Plain prompts give plain completions, chats give message lists. A column that a problem lacks is
        None there. Token ids are left out where there are none: completions of a file or a test.
        """
        rows = self.rows
        ids = [list(completion.token_ids) for _, completion in rows]
        problems = [group.problem for group in self.groups]
        columns = {
            name: self._for_each([problem.columns.get(name) for problem in problems])
            for name in self.column_names
            if accepts(name)
        }
        return (
            columns
            | ({"completion_ids": ids} if any(ids) else {})
            | {
                "prompts": self._for_each([problem.prompt for problem in problems]),
                "completions": [_value(problem, completion) for problem, completion in rows],
            }
        )

    def _for_each(self, values: Sequence[Any]) -> list[Any]:
        """One value a group as one a completion, in copies."""
        pairs = zip(values, self.groups, strict=True)
        return [each for value, group in pairs for each in copies(value, len(group.completions))]

    def split(self, values: Sequence[T]) -> list[tuple[T, ...]]:
        """One value a row, cut into one tuple a group."""
        rest = iter(values)
        return [tuple(next(rest) for _ in group.completions) for group in self.groups]

    def describe(self, row: int) -> str:
        """The completion as an error names it: its number and its row of the data, from 1, and its text, shortened."""
        problem, completion = self.rows[row]
        return f"completion {row + 1} of {len(self.rows)} ({problem.label}): {quoted(completion.text)}"

    def find(self, keywords: Mapping[str, Sequence[Any]], values: Collection[object]) -> int | None:
        """The row whose completion is one of these objects: the one that a failing function was at."""
        identities = {id(value) for value in values if not isinstance(value, str) or len(value) > 1}
        for row, (_, completion) in enumerate(self.rows):
            if id(completion.text) in identities or id(keywords["completions"][row]) in identities:
                return row
        return None


def _value(problem: Problem, completion: Completion) -> CompletionValue:
    """What a function is given for one completion; of several turns, every message after a chat."""
    if completion.messages and not isinstance(problem.prompt, str):
        return [dict(message) for message in completion.messages]
    return as_completion(problem.prompt, completion.text)


def group_from_completions(
    number: int,
    prompt: Prompt,
    completions: Sequence[CompletionValue],
    completion_ids: Sequence[Sequence[int]] | None = None,
    columns: Mapping[str, Any] | None = None,
    opened: str | None = None,
    place: str = "",
    source: str = "the data",
) -> Group:
    """A group of existing completions, from a file or a test. Without token ids, reward functions get none.

    `opened` is the group's `opening`; by default what the prompt opens without a chat template. `place` is where
    messages find its problem in `source`, by default row `number` + 1.
    """
    if opened is None:
        opened = opening(prompt, prompt if isinstance(prompt, str) else "")
    ids = completion_ids if completion_ids is not None else [()] * len(completions)
    made = tuple(
        Completion(tuple(tokens), (), stop_reason="stop", policy_version=0, text=completion_text(completion))
        for completion, tokens in zip(completions, ids, strict=True)
    )
    return Group(number, Problem(number, prompt, dict(columns or {}), place, source), (), made, opening=opened)
