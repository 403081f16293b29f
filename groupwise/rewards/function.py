"""A reward function: a callable with its name, its weight and the keywords it is called with.

    f(prompts, completions, completion_ids=..., **columns) -> list[float | None]

Everything is passed by keyword, and only what the signature accepts: any of the above, any column of the data set,
`trainer_state`, `log_metric` and `log_extra`; `**kwargs` receives all of these. `log_why` and `completion_turns` come
when they are named.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from groupwise.errors import ConfigError, RewardError, near_column
from groupwise.rewards.call_limits import CallLimits
from groupwise.rewards.shaping_rules import Shaping
from groupwise.rewards.spec_rules import unique_names
from groupwise.rounding import LARGEST
from groupwise.types import REWARD_KEYWORDS, SAMPLED_KEYWORDS, TURN_KEYWORDS

ON_REQUEST = frozenset({"log_why", *TURN_KEYWORDS})
"""Passed to a function that names it, not through `**kwargs`, whose names are those of the ecosystem."""


@dataclass(frozen=True)
class RewardFunction:
    """A callable with its name, its weight and the keywords it accepts."""

    name: str
    call: Callable[..., Any]
    weight: float = 1.0
    shaping: Shaping = field(default_factory=Shaping)
    """Shaping of its rewards, before the weight."""
    limits: CallLimits = field(default_factory=CallLimits)
    """Seconds that a call may take, and what happens when one fails."""
    load: Callable[[], None] | None = None
    """Loads now what the first call would load (a model, a sandbox), so that what is missing is found early."""
    accepted: frozenset[str] = field(init=False)
    required: frozenset[str] = field(init=False)
    """The accepted keywords without a default."""
    takes_all_columns: bool = field(init=False)

    def __post_init__(self) -> None:
        is_number = isinstance(self.weight, int | float) and not isinstance(self.weight, bool)
        if not is_number or not abs(self.weight) <= LARGEST:
            raise ConfigError(
                f'The weight of reward "{self.name}" is {self.weight!r}; give a finite number, at most {LARGEST:g} in '
                "size."
            )
        parameters = _keyword_parameters(self.name, self.call)
        kinds = {parameter.kind for parameter in parameters}
        named = [p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)]
        object.__setattr__(self, "accepted", frozenset(p.name for p in named))
        object.__setattr__(self, "required", frozenset(p.name for p in named if p.default is p.empty))
        object.__setattr__(self, "takes_all_columns", inspect.Parameter.VAR_KEYWORD in kinds)

    @classmethod
    def of(cls, call: Callable[..., Any], *, name: str | None = None, weight: float = 1.0) -> RewardFunction:
        """Wrap a callable under its own name; one with a method `load` is loaded before the first rollout."""
        return cls(name or callable_name(call), call, weight, load=getattr(call, "load", None))

    @property
    def is_shipped(self) -> bool:
        """Whether it comes with groupwise, or runs behind something that does (a worker process)."""
        return type(self.call).__module__.startswith("groupwise.")

    @property
    def highest(self) -> float | None:
        """The most that it can give, weighted: its attribute `highest`, unless its shaping changes that; None where it
        is not known."""
        most = getattr(self.call, "highest", None)
        if not isinstance(most, int | float) or self.weight < 0 or self.shaping != Shaping():
            return None
        return self.weight * most

    def accepts(self, keyword: str) -> bool:
        """Whether a call may pass this keyword."""
        return keyword in self.accepted or (self.takes_all_columns and keyword not in ON_REQUEST)

    def missing(self, columns: Collection[str]) -> list[str]:
        """Keywords without which it cannot be called and that a data set with these columns does not give."""
        return sorted(self.required - {*columns, *REWARD_KEYWORDS})

    def check(self, columns: Collection[str], data: str = "data set") -> None:
        """Raise when a data set with these columns cannot call the function; `data` is what an error calls it."""
        for column in columns:
            if column in REWARD_KEYWORDS and (self.takes_all_columns or column in self.accepted):
                raise RewardError(
                    f'The {data} has a column "{column}", and reward function "{self.name}" is handed something else '
                    f"under that name. Rename the column with columns: {{data_{column}: {column}}}."
                )
        others = REWARD_KEYWORDS[len(SAMPLED_KEYWORDS) :]
        available = [*SAMPLED_KEYWORDS, *sorted(columns), *others]
        for missing in self.missing(columns):
            keyword = [name for name in SAMPLED_KEYWORDS if name == f"{missing}s"]
            raise RewardError(
                f'Reward function "{self.name}" takes "{missing}", and the {data} has no such column. Available: '
                f"{', '.join(available)}.{near_column(missing, [*columns, *keyword])} {self._remedy(missing)}"
            )

    def _remedy(self, missing: str) -> str:
        if getattr(self.call, "column", None) == missing:  # a shipped one: its signature is not the user's
            return (
                f"Set its `column` to the column that it compares with, or map one: data.columns: {{{missing}: NAME}}."
            )
        return "Give the parameter a default if it is not a column."


def callable_name(call: Callable[..., Any]) -> str:
    """The name of a callable in the records: its own, or that of its class."""
    while isinstance(call, functools.partial):
        call = call.func
    name = str(getattr(call, "__name__", type(call).__name__))
    return "lambda" if name == "<lambda>" else name


def with_unique_names(functions: Iterable[RewardFunction]) -> list[RewardFunction]:
    """The functions, the second of one name called `name_2`, the third `name_3`."""
    functions = list(functions)
    names = unique_names([function.name for function in functions])
    return [f if f.name == name else replace(f, name=name) for f, name in zip(functions, names, strict=True)]


def _keyword_parameters(name: str, call: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters a caller may still fill by keyword."""
    try:
        parameters = list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError) as error:
        raise RewardError(
            f'The signature of reward function "{name}" cannot be read ({error}). Wrap it: '
            "def reward(completions, **columns): ..."
        ) from error
    # A keyword that functools.partial has bound stays in the signature as a default; a column must not replace it.
    bound = call.keywords if isinstance(call, functools.partial) else {}
    for parameter in parameters:
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise RewardError(
                f'Reward function "{name}" takes "{parameter.name}" by position only, and rewards are called by '
                'keyword. Remove the "/" from its signature.'
            )
    return [p for p in parameters if p.kind is not p.POSITIONAL_ONLY and p.name not in bound]
