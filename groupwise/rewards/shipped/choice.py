"""The reward for the right letter of a multiple-choice question: 1 or 0."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, ClassVar

from groupwise.errors import ConfigError, DataError
from groupwise.rewards.answer_reward import NO_ANSWER, AnswerReward, Verdict
from groupwise.rewards.extract import answer_text
from groupwise.rewards.gold import is_missing
from groupwise.rewards.parameters import check_tag


@dataclass(frozen=True)
class Choice(AnswerReward):
    """1 where the completion settles on the right letter, 0 where on another, on several or on none.

    The answer is a letter or the number of the choice, counted from 0. With `choices`, a completion may also give the
    wording of a choice. Without a place of its own (tag, box, "the answer is"), the letter is one that stands alone on
    its line or in brackets, the last of them.
    """

    __name__: ClassVar[str] = "choice"

    choices: str | None = None
    letters: str = "ABCDE"
    tag: str = "answer"

    def __post_init__(self) -> None:
        super().__post_init__()
        is_right = isinstance(self.letters, str) and len(set(self.letters)) == len(self.letters) >= 2
        if not is_right or not set(self.letters) <= set(string.ascii_uppercase):
            raise ConfigError(f'Reward choice: letters is {self.letters!r}; give the capital letters, as "ABCD".')
        check_tag("choice", self.tag)

    @property
    def columns(self) -> list[str]:
        return [self.column, *([self.choices] if self.choices else [])]

    def check_row(self, columns: Mapping[str, Any]) -> None:
        """Raise `DataError` for a problem whose answer cannot be read."""
        if not is_missing(columns[self.column]):
            self._gold(columns[self.column], columns[self.choices] if self.choices else None)

    def verdict(self, text: str, answer: Any, wordings: Sequence[str] | None = None) -> Verdict:
        if is_missing(answer):
            return NO_ANSWER
        gold, given = self._gold(answer, wordings), self._given(text, wordings)
        return float(given == gold), f"chose {given}, right is {gold}" if given else "no letter found"

    def _gold(self, answer: Any, wordings: Sequence[str] | None) -> str:
        """The one letter that the answer means: as a number, as a letter, as the wording of a choice."""
        letters = self.letters[: len(wordings)] if isinstance(wordings, list | tuple) else self.letters
        is_number = isinstance(answer, Real) and answer is not True and answer is not False
        is_wording = not is_number or any(isinstance(each, Real) for each in wordings or ())
        meant: set[str] = {
            *(letter for index, letter in enumerate(letters) if is_number and index == answer),
            *({str(answer).strip(" ().").upper()} & set(letters)),
            *([worded] if is_wording and wordings and (worded := self._worded(str(answer), wordings)) else ()),
        }
        if len(meant) == 1:
            return meant.pop()
        raise DataError(
            f"Reward choice: the data set's answer {answer!r} is none of the letters {letters}, no number from 0 to "
            f"{len(letters) - 1}, and no wording of a choice. Set letters, column or choices."
            if not meant
            else f"Reward choice: the data set's answer {answer!r} can mean the choices {', '.join(sorted(meant))}: it "
            "is the letter or number of one and the wording of another. Write the wording out, or leave out choices."
        )

    def _given(self, text: str, wordings: Sequence[str] | None) -> str | None:
        place = answer_text(text, tag=self.tag)
        if place is None:
            return next(iter(self._standing_alone(text)[::-1]), None)
        if wordings is not None and (letter := self._worded(place, wordings)):
            return letter
        found = set(re.findall(rf"(?<![\w'])([{self.letters}])(?![\w'])", _without_article(place)))
        if not found and len(place.strip(" ().*")) == 1:
            found = {place.strip(" ().*").upper()} & set(self.letters)
        return found.pop() if len(found) == 1 else None

    def _standing_alone(self, text: str) -> list[str]:
        """Letters in brackets, before a bracket or dot at the start of a line, or alone on it."""
        letter = f"[{self.letters}]"
        pattern = rf"\(({letter})\)|^[\s*]*({letter})(?:[).:*]|\s*$)|\b(?i:option|choice)\s+({letter})\b"
        return ["".join(groups) for groups in re.findall(pattern, text, re.MULTILINE)]

    def _worded(self, text: str, wordings: Sequence[str]) -> str | None:
        plain = [_plain(wording) for wording in wordings]
        at = [letter for letter, wording in zip(self.letters, plain, strict=False) if wording == _plain(text)]
        return at[0] if len(at) == 1 == plain.count(_plain(text)) else None


def _plain(text: object) -> str:
    return " ".join(str(text).casefold().split()).strip(" .")


def _without_article(text: str) -> str:
    """The text without "A" as an article: before a small letter."""
    return re.sub(r"\bA(?=\s+(?!or\b|and\b)[a-z])", " ", text)
