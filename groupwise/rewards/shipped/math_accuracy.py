"""The reward for the right mathematical answer, however it is written: 1 or 0."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from groupwise.chat import CompletionValue, completion_text
from groupwise.errors import DataError
from groupwise.rewards.answer_reward import LogWhy, Verdict, split_reasons
from groupwise.rewards.extract import (
    NUMBER,
    Place,
    after_hashes,
    after_phrase,
    answer_text,
    boxed,
    plain_latex,
    the_number,
)
from groupwise.rewards.gold import is_missing, only_number
from groupwise.rewards.parameters import (
    ask_for_columns,
    check_count,
    check_number,
    check_tag,
    check_word,
    require_extra,
)
from groupwise.rewards.sandbox import Outcome, Sandboxed

PLACES: tuple[Place, ...] = ("auto", "tag", "boxed", "hashes", "whole")
MAX_CHARACTERS = 20_000
"""The end of a longer text is read."""

_PROSE = re.compile(r"\b(?!(?:and|sin|cos|tan|log|exp|sqrt|inf|infinity|pi)\b)[a-z]{3,}\b", re.IGNORECASE)
_MISREAD = re.compile(r"\d[ _]\d|\b0[xob]\w|\b\d{4}-\d\d?-\d\d?\b|\b\d\d?/\d\d?/\d{4}\b", re.IGNORECASE)


@dataclass(frozen=True)
class MathAccuracy:
    """1 where the completion's answer equals the one in its column by math-verify, otherwise 0.

    Numbers, fractions, roots, formulas, equations, sets, intervals, tuples, matrices; LaTeX or plain; units are passed
    over. The last tag, box or "####" is read where the text has one, elsewhere what math-verify finds in it. An answer
    that takes longer than `limit_s` or too much memory is wrong; a data set's answer that cannot be read is unscored,
    and one that would be read as another value is an error.

    Answers are parsed in a worker of their own (sandbox/), never here.
    """

    __name__: ClassVar[str] = "math"
    highest: ClassVar[float] = 1.0

    column: str = "answer"
    place: Literal["auto", "tag", "boxed", "hashes", "whole"] = "auto"
    tag: str = "answer"
    decimals: int = 6
    limit_s: float = 10.0

    def __post_init__(self) -> None:
        check_word("math", "place", self.place, PLACES)
        check_tag("math", self.tag)
        check_count("math", "decimals", self.decimals, least=0)
        check_number("math", "limit_s", self.limit_s, least=0.1)
        ask_for_columns(self, "math", [self.column])
        require_extra("math_verify", "math", "Reward math")
        # math-verify builds formulas from its grammar; all it hands to an evaluator is digits and operators, so where
        # there is no sandbox a process with limits will do.
        scorer = Sandboxed("groupwise.rewards.shipped.math_check:check", timeout_s=self.limit_s, needs_sandbox=False)
        object.__setattr__(self, "_scorer", scorer)

    def __call__(
        self, completions: Sequence[CompletionValue], log_why: LogWhy | None = None, **columns: Sequence[Any]
    ) -> list[float | None]:
        answers = columns[self.column]
        texts = [self._given(completion_text(completion)) for completion in completions]
        rows = [
            {"given": text, "answer": _gold(answer), "decimals": self.decimals}
            for text, answer in zip(texts, answers, strict=True)
            if text is not None and not is_missing(answer)
        ]
        outcomes = iter(self._scorer(rows))  # type: ignore[attr-defined]  # set above, and no parameter
        return split_reasons(
            [
                self._verdict(text, answer, next(outcomes) if text is not None and not is_missing(answer) else None)
                for text, answer in zip(texts, answers, strict=True)
            ],
            log_why,
        )

    def check_row(self, columns: Mapping[str, Any]) -> None:
        """Raise `DataError` for a problem whose answer would be compared as another value."""
        if not is_missing(columns[self.column]):
            _gold(columns[self.column])

    def _given(self, text: str) -> str | None:
        """The text for the worker: the answer alone where it has a place, as a formula."""
        place = answer_text(text, self.place, self.tag) if self.place != "auto" else _marked(text, self.tag)
        if place is None:
            return text[-MAX_CHARACTERS:] if self.place == "auto" else None
        return _as_formula(place[-MAX_CHARACTERS:]) if self.place != "whole" else place[-MAX_CHARACTERS:]

    def _verdict(self, text: str | None, answer: Any, outcome: Outcome | None) -> Verdict:
        if is_missing(answer):
            return None, "no answer in the data"
        if text is None or outcome is None:
            return 0.0, f"no answer at place {self.place}"
        if outcome.error is not None:
            is_its_fault = outcome.error.startswith(("timed out", "killed"))
            return (0.0 if is_its_fault else None), outcome.error
        if outcome.value["is_right"] is None:
            return None, f"the data set's answer {str(answer)[:60]!r} cannot be read"
        given = outcome.value["given"]
        return float(outcome.value["is_right"]), "nothing to read" if given is None else f"read as {given}"


def _marked(text: str, tag: str) -> str | None:
    """The last tag, box or "####"; or what is stated in brackets, of which math-verify would read a part only."""
    marked = next((part for place in PLACES[1:4] if (part := answer_text(text, place, tag)) is not None), None)
    stated = after_phrase(text) if marked is None else None
    return stated if stated is not None and re.match(r"\\?[(\[{]", stated) else marked


def _gold(answer: Any) -> str:
    """A data set's answer as a formula: a number, LaTeX, or a solution that ends in a box or in "####".

    Raises:
        DataError: math-verify would read another value in it ("5 million" is 5, "10 000" is 0).
    """
    text = str(answer)
    text = next((part for part in (boxed(text), after_hashes(text)) if part is not None), text)
    plain = plain_latex(text).strip()
    is_worded = NUMBER.match(plain) is not None and _PROSE.search(plain) is not None
    is_misread = any(char.isnumeric() and not char.isdecimal() for char in text)
    is_misread |= "\\" not in text and _MISREAD.search(text) is not None
    if is_misread or (is_worded and only_number(text) is None):
        raise DataError(
            f"Reward math: the data set's answer {text[:80]!r} is no formula and no single number, and would be "
            "compared as another value. Write it as one number (5000000, 10000, 3.5) or as LaTeX."
        )
    return _as_formula(text)


def _as_formula(text: str) -> str:
    """Between dollar signs, unless its formula is marked already; "72 clips" is the number 72, not 72 x c x l ...

    A dollar sign before a number is money.
    """
    text = re.sub(r"\\?\$(?=\s?\d)(?!\s?\d[^$]*\$)", "", text.strip())
    if _PROSE.search(text) and "\\" not in text and (number := the_number(text)) is not None:
        return f"${number}$"
    return text if re.search(r"\$|\\boxed|\\\(|\\\[", text) else f"${text}$"
