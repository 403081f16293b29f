"""Settings that every task has: how its questions are asked, and where in a completion the answer is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from groupwise.errors import ConfigError, did_you_mean
from groupwise.rewards.extract import answer_text, last_number
from groupwise.rewards.shipped.number import Number
from groupwise.types import Prompt

Place = Literal["last", "line", "tag", "boxed", "hashes", "phrase", "whole", "auto"]
"""The place of the answer: the last number; the last line; in <answer> tags; in \\boxed{}; after "####"; after "the
answer is"; the whole completion; or the first of tag, box, "####", phrase that there is, otherwise the whole."""

Style = Literal["chat", "plain"]

SYSTEM_PROMPTS: Mapping[str, str] = {
    "last": "Answer the question. End with the answer.",
    "line": "Answer the question. Write the answer alone on the last line.",
    "tag": "Think about the question, then give the answer alone between <answer> and </answer>.",
    "boxed": "Think step by step, then put the answer alone inside \\boxed{}.",
    "hashes": 'Think step by step, then write "####" and the answer alone on the last line.',
    "phrase": 'Think step by step, then write "The answer is" and the answer.',
    "whole": "Answer with the answer alone.",
    "auto": "Answer the question.",
}
"""Place -> the system prompt for an answer there."""


@dataclass(frozen=True)
class Asking:
    """The settings of a task, as far as they are common to all."""

    place: Place = "auto"
    """Place of the answer in a completion."""
    system_prompt: str | None = None
    """Put before every question; null is that of `place`, an empty text leaves it out."""
    style: Style = "chat"
    """Messages, or plain text for a model without a chat template."""

    def __post_init__(self) -> None:
        for name, value, known in (("place", self.place, get_args(Place)), ("style", self.style, get_args(Style))):
            if value not in known:
                raise ConfigError(
                    f"task: {name} is {value!r}; expected one of {', '.join(known)}.{did_you_mean(str(value), known)}"
                )

    def prompt(self, question: str) -> Prompt:
        """The question as the policy gets it."""
        system = SYSTEM_PROMPTS[self.place] if self.system_prompt is None else self.system_prompt
        if self.style == "plain":
            return f"{system}\n\n{question}" if system else question
        user: dict[str, Any] = {"role": "user", "content": question}
        return [{"role": "system", "content": system}, user] if system else [user]

    def number(self) -> Number:
        """The reward that compares the number at `place` with the column `answer`."""
        place: Any = "whole" if self.place in ("last", "line", "whole") else self.place
        return Number(place=place)  # the last number of the text is on its last line, too

    def answer(self, text: str) -> str | None:
        """The answer in a completion's text, without white space around it; None where there is none."""
        if self.place == "last":
            number = last_number(text)
            return None if number is None else str(number)
        if self.place == "line":
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            return lines[-1] if lines else None
        found = answer_text(text, self.place)
        return found.strip() or None if found is not None else None


def check_whole(task: str, name: str, value: object, least: int) -> None:
    """Raise `ConfigError` unless the setting is a whole number, `least` or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"{task}: {name} is {value!r}; expected a whole number of at least {least}.")
