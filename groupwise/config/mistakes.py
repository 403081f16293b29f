"""Everything that is wrong with a configuration, said at once and in plain words."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from groupwise.errors import ConfigError, did_you_mean

_WORDS = {
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "finite_number": "a finite number",
    "missing": "a value",
    "model_type": "a mapping",
    "too_short": "at least {min_length} entry",
    "string_too_short": "a text that is not empty",
}
_KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "string": "text"}
_KINDS |= {"list": "a list", "tuple": "a list", "dict": "a mapping", "none": "null"}


class ConfigProblemsError(ConfigError):
    """A `ConfigError` that still knows its sentences one by one."""

    def __init__(self, subject: str, sentences: Iterable[str]) -> None:
        self.sentences = tuple(sentences)
        if len(self.sentences) == 1:
            super().__init__(f"{subject}: {self.sentences[0]}")
        else:
            lines = "".join(f"\n  - {sentence}" for sentence in self.sentences)
            super().__init__(f"{subject}: {len(self.sentences)} problems{lines}")


class Problems:
    """Collects problems, one sentence each, and raises them together."""

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self.sentences: list[str] = []

    def add(self, sentence: str) -> None:
        """Keep one sentence; the same one twice is kept once."""
        if sentence not in self.sentences:
            self.sentences.append(sentence)

    def add_unknown(
        self,
        name: str,
        known: Iterable[str],
        kind: str = "unknown key",
        *,
        common: Collection[str] = (),
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        """A name that is in no table, with the names that were probably meant (see `did_you_mean`)."""
        self.add(f'{kind} "{name}".{did_you_mean(name, known, common=common, elsewhere=elsewhere)}')

    def add_invalid(self, error: ValidationError | UnicodeEncodeError, prefix: str = "") -> None:
        """The values that pydantic rejected, without its vocabulary; of a union, only the branch nearest to fitting."""
        if isinstance(error, UnicodeEncodeError):
            self.add(f"{shown(error.object)} holds half a character (a lone surrogate); write it anew.")
            return
        worded: dict[str, list[str]] = {}
        for detail in error.errors(include_url=False):
            name = prefix + _path(detail["loc"])
            worded.setdefault(name, []).append(_sentence(name, detail))
        for sentences in worded.values():
            self.add(sentences[0])

    def raise_if_any(self) -> None:
        """Raise one `ConfigError` that lists every problem."""
        if self.sentences:
            raise ConfigProblemsError(self.subject, self.sentences)


def _path(location: tuple[int | str, ...]) -> str:
    """`("data", "split")` -> `data.split`; branches of a union and functions have no place in it."""
    names = [str(part) for part in location if not _is_branch(part)]
    return ".".join(names)


def _is_branch(part: int | str) -> bool:
    return isinstance(part, str) and (part in _KINDS or part in {"str", "constrained-int"} or "[" in part)


def _sentence(name: str, detail: Mapping[str, Any]) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "value_error":
        return f"{name}: {context['error']}"
    if kind == "literal_error":
        choices = context["expected"].replace("'", '"')
        near = did_you_mean(str(value), [choice.strip('" ') for choice in choices.replace(" or ", ",").split(",")])
        return f"{name} is {value!r}; expected one of {choices}.{near}"
    return f"{name} is {shown(value)}; expected {_expectation(kind, context)}."


def _expectation(kind: str, context: Mapping[str, Any]) -> str:
    if kind in _WORDS:
        return _WORDS[kind].format(**context)
    family = kind.removesuffix("_type").removesuffix("_parsing").removesuffix("_from_float")
    return _KINDS.get(family, f"something else ({kind.replace('_', ' ')})")


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
