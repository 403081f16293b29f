"""The reward for a text in which a regular expression is found: 1 or 0."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from groupwise.chat import CompletionValue, completion_text
from groupwise.errors import ConfigError
from groupwise.rewards.parameters import check_word


@dataclass(frozen=True)
class Regex:
    """1 where the pattern is found (`match: anywhere`), or is the whole completion without white space around it.

    Python's syntax; "." matches line ends too, "^" and "$" match at every line.
    """

    __name__: ClassVar[str] = "regex"
    highest: ClassVar[float] = 1.0

    pattern: str
    match: Literal["anywhere", "whole"] = "anywhere"
    ignore_case: bool = False
    absent: bool = False
    """1 where it is not found, 0 where it is."""

    def __post_init__(self) -> None:
        check_word("regex", "match", self.match, ("anywhere", "whole"))
        flags = re.DOTALL | re.MULTILINE | (re.IGNORECASE if self.ignore_case else 0)
        try:
            compiled = re.compile(self.pattern, flags)
        except (re.error, TypeError) as error:
            raise ConfigError(
                f"Reward regex: pattern is {self.pattern!r}, which is no regular expression: {error}."
            ) from error
        object.__setattr__(self, "_compiled", compiled)

    def __call__(self, completions: Sequence[CompletionValue]) -> list[float]:
        compiled: re.Pattern[str] = self._compiled  # type: ignore[attr-defined]  # set above, and no parameter
        texts = [completion_text(completion) for completion in completions]
        found = [compiled.search(t) if self.match == "anywhere" else compiled.fullmatch(t.strip()) for t in texts]
        return [float((each is None) is self.absent) for each in found]
