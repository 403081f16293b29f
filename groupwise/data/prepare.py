"""Problems with their prompts as token ids, cut to length, counted and ready to be drawn."""

from __future__ import annotations

import logging
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from groupwise.chat import OPENING, Tokenizer, decode_completion, encode_prompt, opening, truncate_left
from groupwise.data.files import place_in
from groupwise.data.problems import Problems
from groupwise.errors import DataError
from groupwise.types import Problem, Prompt

_log = logging.getLogger(__name__)

ShowTools = Callable[[Problem], tuple[Prompt, Mapping[str, Any] | None]]


@dataclass(frozen=True)
class PreparedProblem:
    """A problem and what the engine is asked."""

    problem: Problem
    prompt_ids: tuple[int, ...]
    is_truncated: bool
    opening: str = ""
    """See `Group.opening`."""


@dataclass(frozen=True)
class PreparedProblems:
    """The problems that can be drawn; row r of an `Order` is item r."""

    problems: Problems
    num_truncated: int
    num_dropped: int
    _rows: tuple[int, ...]
    _ids: tuple[array[int], ...]
    _is_truncated: tuple[bool, ...]
    _openings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> PreparedProblem:
        problem = self.problems[self._rows[row]]
        return PreparedProblem(problem, tuple(self._ids[row]), self._is_truncated[row], self._openings[row])

    @property
    def indices(self) -> tuple[int, ...]:
        """The number of each row's problem in the data set."""
        return self._rows

    @property
    def max_prompt_tokens(self) -> int:
        """Length of the longest prompt, after cutting."""
        return max(len(ids) for ids in self._ids)

    @property
    def min_prompt_tokens(self) -> int:
        """Length of the shortest prompt, after cutting."""
        return min(len(ids) for ids in self._ids)

    def find_id(self, least: int) -> tuple[int, int] | None:
        """The first problem with a token id of `least` or more in its prompt: its place, from 0, and the id."""
        found = ((row, max(ids)) for row, ids in zip(self._rows, self._ids, strict=True))
        return next(((row, token_id) for row, token_id in found if token_id >= least), None)


def prepare(
    problems: Problems,
    tokenizer: Tokenizer,
    *,
    max_prompt_length: int | None = None,
    overlong: Literal["truncate", "drop"] = "truncate",
    system_prompt: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    show_tools: ShowTools | None = None,
) -> PreparedProblems:
    """Encode every prompt now, so that a row that cannot be used stops the run before it costs anything.

    `show_tools` gives the prompt of a problem with its tools, and the arguments of the chat template then.

    Prompts over `max_prompt_length` tokens lose their beginning ("truncate") or are left out ("drop").

    Raises:
        DataError: a prompt that cannot be encoded, with its row, or no problem that is left.
    """
    rows, encoded, truncated, openings = [], [], [], []
    for problem in problems:
        asked = (problem.prompt, chat_template_kwargs) if show_tools is None else show_tools(problem)
        ids = _encode(tokenizer, problem, problems.name, system_prompt, *asked)
        is_overlong = max_prompt_length is not None and len(ids) > max_prompt_length
        if is_overlong and overlong == "drop":
            continue
        rows.append(problem.index)
        encoded.append(array("i", truncate_left(ids, max_prompt_length)))
        truncated.append(is_overlong)
        end = decode_completion(tokenizer, ids[-OPENING:], skip_special_tokens=False)
        openings.append(opening(problem.prompt, end))
    _tell_of_template_columns(problems, chat_template_kwargs or {})
    num_dropped = len(problems) - len(rows)
    kept = tuple(rows), tuple(encoded), tuple(truncated), tuple(openings)
    prepared = PreparedProblems(problems, sum(truncated), num_dropped, *kept)
    _report(prepared, max_prompt_length)
    return prepared


def _encode(
    tokenizer: Tokenizer,
    problem: Problem,
    name: str,
    system_prompt: str | None,
    prompt: Prompt,
    chat_template_kwargs: Mapping[str, Any] | None,
) -> list[int]:
    try:
        ids = encode_prompt(tokenizer, prompt, system_prompt=system_prompt, chat_template_kwargs=chat_template_kwargs)
    except DataError as error:
        raise DataError(f"{place_in(name, problem.place)}: {error}") from error
    if not ids:
        raise DataError(f"{place_in(name, problem.place)}: the prompt has no tokens.")
    return ids


def _tell_of_template_columns(problems: Problems, given: Mapping[str, Any]) -> None:
    """Log that the chat template takes its arguments from the recipe, where a column of the data is named like one."""
    for name, example in (("tools", "{tools: [...]}"), ("chat_template_kwargs", "{enable_thinking: false}")):
        if name in problems.column_names and name not in given:
            _log.warning(
                f'{problems.name}: column "{name}" reaches the rewards and not the prompts. The chat template gets its '
                f"arguments from the configuration, the same for all rows: chat_template_kwargs: {example}."
            )


def _report(prepared: PreparedProblems, max_prompt_length: int | None) -> None:
    total = len(prepared.problems)
    if len(prepared) == 0:
        raise DataError(
            f"All {total} prompts of {prepared.problems.name} are longer than max_prompt_length = {max_prompt_length} "
            'tokens and were dropped. Raise max_prompt_length, or set overlong_prompts: "truncate".'
        )
    for count, what in ((prepared.num_truncated, "cut from the left"), (prepared.num_dropped, "left out")):
        if count:
            _log.warning(f"{count} of {total} prompts are longer than {max_prompt_length} tokens and were {what}.")
