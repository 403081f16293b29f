"""The reward for the right answer, letter for letter: 1 or 0."""

from __future__ import annotations

import inspect
import keyword
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from groupwise.chat import CompletionValue, completion_text
from groupwise.errors import ConfigError


@dataclass(frozen=True)
class ExactMatch:
    """1 where the completion equals the text of its problem's `column`, otherwise 0.

    With `tag`, only what stands in the last `<tag>...</tag>` is compared, and a completion without one gets 0. A
    problem without an answer (None) is not judged.
    """

    __name__: ClassVar[str] = "exact_match"

    column: str = "answer"
    strip: bool = True
    """Ignore white space at both ends."""
    ignore_case: bool = False
    tag: str | None = None

    def __post_init__(self) -> None:
        if not _is_parameter_name(self.column):
            raise ConfigError(
                f"Reward exact_match: column is {self.column!r}; name the column that holds the answer. It must be a "
                "Python name: the data setting columns: {new: old} renames one that is not."
            )
        if self.tag is not None and not (isinstance(self.tag, str) and re.fullmatch(r"\w[\w-]*", self.tag)):
            raise ConfigError(f'Reward exact_match: tag is {self.tag!r}; give its name without brackets, as "answer".')
        parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in ("completions", self.column)]
        # What is asked for depends on `column`, so that a missing one is named before the first rollout.
        object.__setattr__(self, "__signature__", inspect.Signature(parameters))

    def __call__(self, completions: Sequence[CompletionValue], **columns: Sequence[Any]) -> list[float | None]:
        answers = columns[self.column]
        return [self._judge(completion, answer) for completion, answer in zip(completions, answers, strict=True)]

    def _judge(self, completion: CompletionValue, answer: Any) -> float | None:
        if answer is None:
            return None
        given = self._given(completion_text(completion))
        return float(given is not None and self._normal(given) == self._normal(str(answer)))

    def _given(self, text: str) -> str | None:
        if self.tag is None:
            return text
        _, opening, rest = text.rpartition(f"<{self.tag}>")
        inside, closing, _ = rest.partition(f"</{self.tag}>")
        return inside if opening and closing else None

    def _normal(self, text: str) -> str:
        text = text.strip() if self.strip else text
        return text.casefold() if self.ignore_case else text


def _is_parameter_name(name: object) -> bool:
    return isinstance(name, str) and name.isidentifier() and not keyword.iskeyword(name) and name != "completions"
