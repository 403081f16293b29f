"""Scores groups: calls every reward function, checks what it returned, and adds the weighted rewards up."""

from __future__ import annotations

import copy
import functools
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from groupwise.errors import ConfigError, DataError, RewardError
from groupwise.rewards.copies import without_arrays
from groupwise.rewards.executor import RewardCall, RewardExecutor
from groupwise.rewards.failure import failure
from groupwise.rewards.flat_groups import FlatGroups
from groupwise.rewards.function import RewardFunction, with_unique_names
from groupwise.rewards.isolated import Isolated
from groupwise.rewards.opened import opened_completions
from groupwise.rewards.read_scores import FunctionScores, read_scores
from groupwise.rewards.shaping_rules import shaped_values
from groupwise.rewards.signal import SignalOf, has_signal, weighted_steps
from groupwise.rounding import LARGEST
from groupwise.types import Group, Problem, ScoredGroup


@dataclass(frozen=True)
class ScoredGroups:
    """Groups with their rewards, the time they took, and what the functions logged."""

    groups: tuple[ScoredGroup, ...]
    seconds: dict[str, float]
    """Function name -> the wall-clock seconds of its call."""
    logged: dict[str, float] = field(default_factory=dict)
    """Name given to `log_metric` -> the mean of its values."""
    extras: dict[str, list[Any]] = field(default_factory=dict)
    """Column given to `log_extra` -> one value a completion, in the order of the groups."""


class RewardScorer:
    """The reward functions of a run.

    `column_names`: the columns of the data set, where they are known; a function that requires another one is then
    an error at once. Without them, the columns are those of the problems at hand. `signal_of`: which rewards have to
    differ for a group to have signal. `environments`: what has answered the completions that are scored next.
    """

    def __init__(
        self,
        functions: Sequence[RewardFunction],
        column_names: Collection[str] | None = None,
        *,
        signal_of: SignalOf = "sum",
        environments: Callable[[], Sequence[Any]] | None = None,
    ) -> None:
        if not functions:
            raise ConfigError("There is no reward function. Give at least one, such as rewards: [length].")
        self.functions = with_unique_names(functions)
        names = [function.name for function in self.functions]
        for function in self.functions:
            function.shaping.check(function.name, names)
        self.signal_of = signal_of
        self._environments = environments
        self._column_names = column_names
        self._executor = RewardExecutor()
        if column_names is not None:
            self.check(column_names)

    def with_function(self, function: RewardFunction) -> RewardScorer:
        """A scorer with one function more; the asynchronous ones run in the same event loop."""
        more = copy.copy(self)
        more.functions = with_unique_names([*self.functions, function])
        return more

    @property
    def weights(self) -> list[float]:
        """One a function."""
        return [function.weight for function in self.functions]

    @property
    def highest(self) -> float | None:
        """The most that the weighted sum can be; None where that of a function is not known."""
        each = [function.highest for function in self.functions]
        known = [most for most in each if most is not None]
        return sum(known) if len(known) == len(each) else None

    def check(self, column_names: Collection[str], data: str = "data set") -> None:
        """Raise `RewardError` when a function requires a keyword that a data set with these columns lacks."""
        more = () if self._environments is None else ("environments",)
        for function in self.functions:
            function.check([*column_names, *more], data)

    def check_rows(self, name: str, problems: Iterable[Problem]) -> None:
        """Raise `DataError` with the row where a function cannot read the right answer of a problem.

        A column that is missing is left to `check`, which names all that there are.
        """
        for problem in problems:
            for function in self.functions:
                check_row = getattr(function.call, "check_row", None)
                if check_row is None or function.missing(problem.columns):
                    continue
                try:
                    check_row(without_arrays(problem.columns))
                except DataError as error:
                    raise DataError(f"{name}, {problem.place}: {error}") from error

    def load(self) -> None:
        """Load the reward models now instead of at the first group."""
        for function in self.functions:
            if function.load is not None:
                function.load()

    def score(self, groups: Sequence[Group], *, trainer_state: Any = None) -> ScoredGroups:
        """The groups with the rewards of every function, their shaped rewards and the weighted sum."""
        flat = FlatGroups.of(groups, self._column_names)
        if not flat.rows:
            return ScoredGroups(
                tuple(ScoredGroup.of(group, rewards={}, reward=(), has_signal=False) for group in groups),
                {function.name: 0.0 for function in self.functions},
            )
        self.check(flat.column_names)
        notes = [_Notes(function.name, len(flat.rows)) for function in self.functions]
        played = None if self._environments is None else list(self._environments()[: len(flat.rows)])
        calls = [_call(f, flat, trainer_state, note, played) for f, note in zip(self.functions, notes, strict=True)]
        names = [function.name for function in self.functions]
        returned = dict(zip(names, self._executor.run(calls), strict=True))
        scores = {name: _of_played(read_scores(name, value, flat), flat) for name, (value, _) in returned.items()}
        extras = {column: values for note in notes for column, values in note.extras.items()}
        return ScoredGroups(
            groups=self._with_rewards(flat, scores, extras),
            seconds={name: seconds for name, (_, seconds) in returned.items()},
            logged=_means(notes),
            extras=extras,
        )

    def _with_rewards(
        self, flat: FlatGroups, scores: dict[str, FunctionScores], extras: dict[str, list[Any]]
    ) -> tuple[ScoredGroup, ...]:
        shaped = self._shaped(flat, scores)
        weighted = [shaped.get(name, s.rewards) for name, s in scores.items()]
        sums = flat.split([self._total(flat, row, values) for row, values in enumerate(zip(*weighted, strict=True))])
        by_function: dict[str, dict[str, Sequence[Any]]] = {
            "rewards": {name: flat.split(s.rewards) for name, s in scores.items()},
            "shaped": {name: flat.split(values) for name, values in shaped.items()},
            "steps": {name: flat.split(s.steps) for name, s in scores.items() if any(e is not None for e in s.steps)},
            "extras": {column: flat.split(values) for column, values in extras.items()},
        }
        return tuple(
            self._with_signal(
                group,
                sums[index],
                {
                    field: {name: parts[index] for name, parts in columns.items()}
                    for field, columns in by_function.items()
                },
            )
            for index, group in enumerate(flat.groups)
        )

    def _with_signal(self, group: Group, reward: tuple[float | None, ...], values: dict[str, Any]) -> ScoredGroup:
        scored = ScoredGroup.of(group, reward=reward, has_signal=False, **values)
        steps = weighted_steps(scored, self.weights) if self.signal_of == "steps" else []
        return replace(scored, has_signal=has_signal(self.signal_of, reward, scored.shaped_rewards, steps))

    def _total(self, flat: FlatGroups, row: int, values: Sequence[float | None]) -> float | None:
        """The weighted sum over the functions that gave a number; `RewardError` where a term of it is too large."""
        terms = []
        for function, value in zip(self.functions, values, strict=True):
            if value is None:
                continue
            terms.append(function.weight * value)
            if not abs(terms[-1]) <= LARGEST:
                raise RewardError(
                    f'Reward function "{function.name}" counts {value:g} x weight {function.weight:g} = {terms[-1]:g}, '
                    f"which no baseline can be computed from; keep it at or below {LARGEST:g} in size. It was for "
                    f"{flat.describe(row)}."
                )
        return math.fsum(terms) if terms else None

    def _shaped(self, flat: FlatGroups, scores: dict[str, FunctionScores]) -> dict[str, list[float | None]]:
        """Function -> its rewards after clipping, normalising and gating, where it has any of these."""
        shapings = {function.name: function.shaping for function in self.functions}
        for name, found in scores.items():
            if not shapings[name].is_plain and any(each is not None for each in found.steps):
                raise RewardError(
                    f'Reward function "{name}" scored the steps of a completion, and only whole completions can be '
                    "clipped, normalised or gated. Take clip, normalise, when, unless and times away from it."
                )
        group_N = [number for number, group in enumerate(flat.groups) for _ in group.completions]
        return shaped_values(shapings, {name: s.rewards for name, s in scores.items()}, group_N)


class _Notes:
    """Metrics and columns that one function logs during one call."""

    def __init__(self, function_name: str, num_rows: int) -> None:
        self.function_name = function_name
        self.num_rows = num_rows
        self.metrics: list[tuple[str, float]] = []
        self.extras: dict[str, list[Any]] = {}

    def log_metric(self, name: str, value: float) -> None:
        """A number for the record of the step; several of one name are averaged."""
        self.metrics.append((name, float(value)))

    def log_extra(self, column: str, values: Sequence[Any]) -> None:
        """A column for the record of the completions: one value for each."""
        if len(values) != self.num_rows:
            raise RewardError(
                f'Reward function "{self.function_name}" gave log_extra("{column}", ...) {len(values)} values for '
                f"{self.num_rows} completions; give one for each."
            )
        self.extras[column] = list(values)

    def unscored(self, error: RewardError) -> list[None]:
        """The rewards of a call that failed, under `on_failure: none`: all None, with a warning."""
        self.metrics, self.extras = [(f"{self.function_name}/failed", 1.0)], {}
        warnings.warn(f"{error} None of its completions is scored this time (on_failure: none).", stacklevel=2)
        return [None] * self.num_rows

    def log_why(self, reasons: Sequence[str | None]) -> None:
        """The reason for the reward of each completion, as the column `<function>/why`."""
        self.log_extra(f"{self.function_name}/why", reasons)


def _call(
    function: RewardFunction, flat: FlatGroups, trainer_state: Any, notes: _Notes, played: list[Any] | None
) -> RewardCall:
    offered = (
        flat.keywords(function.accepts)
        | opened_completions(function.call, flat.groups)
        | {
            "trainer_state": trainer_state,
            "log_metric": notes.log_metric,
            "log_extra": notes.log_extra,
            "log_why": notes.log_why,
            "completion_turns": [list(completion.turns) for _, completion in flat.rows],
        }
        | ({} if played is None else {"environments": played})
    )
    if "completion_ids" in function.required and "completion_ids" not in offered:
        raise RewardError(
            f'Reward function "{function.name}" takes "completion_ids", and these completions have no token ids. '
            "Give them with the completions."
        )
    keywords = {name: value for name, value in offered.items() if function.accepts(name)}
    if function.is_shipped:  # they read texts and numbers
        keywords |= {name: without_arrays(keywords[name]) for name in keywords.keys() & flat.column_names}
        if "completion_ids" in keywords and not isinstance(function.call, Isolated):  # and count the policy's tokens
            keywords["completion_ids"] = [list(completion.sampled_ids) for _, completion in flat.rows]
    return RewardCall(
        function.call,
        keywords,
        functools.partial(failure, function, flat, offered),
        name=f'reward function "{function.name}"',
        timeout_s=0.0 if isinstance(function.call, Isolated) else function.limits.timeout_s,  # it keeps it itself
        instead=notes.unscored if function.limits.on_failure == "none" else None,
    )


def _of_played(scores: FunctionScores, flat: FlatGroups) -> FunctionScores:
    """The scores, without those of completions whose environment failed: nobody knows what they are worth."""
    is_played = [completion.stop_reason != "failed" for _, completion in flat.rows]
    if all(is_played):
        return scores
    return FunctionScores(
        [value if keep else None for value, keep in zip(scores.rewards, is_played, strict=True)],
        [steps if keep else None for steps, keep in zip(scores.steps, is_played, strict=True)],
    )


def _means(notes: Sequence[_Notes]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for note in notes:
        for name, value in note.metrics:
            values.setdefault(name, []).append(value)
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}
