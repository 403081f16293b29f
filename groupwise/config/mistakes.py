"""The mistakes in a configuration: collected, in plain words, and raised together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError

from groupwise.config.fields import branches_of
from groupwise.errors import ConfigError, did_you_mean

_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "a number of at least {ge:g}",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "a number of at most {le:g}",
    "finite_number": "a finite number",
    "missing": "a value",
    "too_short": "at least {min_length} entry",
    "string_too_short": "a text that is not empty",
}
"""Pydantic's kind of error -> what it expected."""

MAPPINGS = {
    "data": "{path: rows.jsonl, split: train}",
    "columns": "{prompt: question}",
    "rewards": "{name: length, target: 50}",
    "when": "{math: 1}",
    "unless": "{math: 1}",
    "params": "{target: 50}",
    "lora": "{r: 16, lora_alpha: 32}, or true for these",
    "task": "{name: countdown, max_number: 50}",
    "environment": "{name: guess, high: 10}",
    "chat_template_kwargs": "{enable_thinking: false}",
    "lr_scheduler_kwargs": "{num_cycles: 2}",
    "model_init_kwargs": "{attn_implementation: sdpa}",
}
"""Key whose value is a mapping -> an example of a right one."""


class ConfigProblemsError(ConfigError):
    """A `ConfigError` that still knows its sentences one by one."""

    def __init__(self, subject: str, sentences: Iterable[str]) -> None:
        self.sentences = tuple(sentences)
        if len(self.sentences) == 1:
            super().__init__(f"{subject}: {self.sentences[0]}")
        else:
            lines = "".join(f"\n  - {sentence}" for sentence in self.sentences)
            super().__init__(f"{subject}: {len(self.sentences)} problems{lines}")


class Mistakes:
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

    def add_invalid(self, error: ValidationError | UnicodeEncodeError, model: type[BaseModel]) -> None:
        """The values that pydantic rejected, without its vocabulary; of a union, only the branch nearest to fitting."""
        if isinstance(error, UnicodeEncodeError):
            self.add(f"{shown(error.object)} holds half a character (a lone surrogate); write it anew.")
            return
        worded: dict[str, list[str]] = {}
        for detail in error.errors(include_url=False):
            name, annotation = _place(detail["loc"], model)
            worded.setdefault(name, []).append(_sentence(name, detail, annotation))
        for sentences in worded.values():
            self.add(sentences[0])

    def raise_if_any(self) -> None:
        """Raise one `ConfigError` that lists every problem."""
        if self.sentences:
            raise ConfigProblemsError(self.subject, self.sentences)


def _place(location: tuple[int | str, ...], model: type[BaseModel]) -> tuple[str, Any]:
    """`("data", "split")` -> `data.split` and its type; what pydantic calls the branch of a union is left out."""
    names: list[str] = []
    annotation: Any = model
    for part in location:
        branches = branches_of(annotation)
        if len(branches) > 1:
            annotation = next((branch for branch in branches if get_args(branch)), None)
        elif (annotation := _inside(branches[0], part)) is not None:
            names.append(str(part))
    return ".".join(names), branches_of(annotation)[0]


def _inside(annotation: Any, part: int | str) -> Any:
    """The type of a model's field, of a list's entry or of a mapping's value; None for a type that holds nothing."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation.model_fields[str(part)].annotation
    inner = get_args(annotation)
    return inner[1 if get_origin(annotation) is dict else 0] if inner else None


def _sentence(name: str, detail: Mapping[str, Any], annotation: Any) -> str:
    kind, context, value = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "value_error":
        return f"{name}: {context['error']}"
    if kind == "literal_error":
        choices = context["expected"].replace("'", '"')
        return f"{name} is {value!r}; expected one of {choices}.{did_you_mean(str(value), get_args(annotation))}"
    expected = _EXPECTED.get(kind, f"something else ({kind.replace('_', ' ')})").format(**context)
    key = next((part for part in reversed(name.split(".")) if not part.isdigit()), name)
    if expected == "a mapping" and key in MAPPINGS:
        expected += f" such as {MAPPINGS[key]}"
    return f"{name} is {shown(value)}; expected {expected}."


def shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
