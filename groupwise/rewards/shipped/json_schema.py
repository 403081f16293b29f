"""The reward for JSON that a schema accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from groupwise.chat import CompletionValue, completion_text
from groupwise.errors import ConfigError
from groupwise.rewards.answer_reward import LogWhy, Verdict, split_reasons
from groupwise.rewards.extract import tagged
from groupwise.rewards.parameters import check_number, check_tag, check_word, require_extra

MAX_CHARACTERS = 1_000_000
_FENCE = re.compile(r"```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class JsonSchema:
    """1 where the completion is JSON that its schema accepts; `valid_json` where it is other JSON; 0 where it is none.

    `where`: the whole completion, its only fenced code block (fence), or the last `<tag>...</tag>` (tag). NaN and
    Infinity are no JSON. The schema is a mapping or the path of a .json file; its `$schema` names the draft, by
    default 2020-12. References to other files or addresses are not followed.
    """

    __name__: ClassVar[str] = "json_schema"
    highest: ClassVar[float] = 1.0

    schema: Mapping[str, Any] | str
    where: Literal["whole", "fence", "tag"] = "whole"
    tag: str = "answer"
    valid_json: float = 0.0

    def __post_init__(self) -> None:
        check_word("json_schema", "where", self.where, ("whole", "fence", "tag"))
        check_tag("json_schema", self.tag)
        check_number("json_schema", "valid_json", self.valid_json, least=0, most=1)
        object.__setattr__(self, "_validator", _validator(self.schema))

    def __call__(self, completions: Sequence[CompletionValue], log_why: LogWhy | None = None) -> list[float | None]:
        return split_reasons((self._verdict(completion_text(completion)) for completion in completions), log_why)

    def _verdict(self, text: str) -> Verdict:
        part = self._part(text)
        if part is None:
            return 0.0, f"no {'code block' if self.where == 'fence' else f'<{self.tag}>'}, or several"
        if len(part) > MAX_CHARACTERS:
            return 0.0, f"longer than {MAX_CHARACTERS} characters"
        try:
            value = json.loads(part, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            return 0.0, f"not JSON: {error}"[:120]
        wrong = next(self._validator.iter_errors(value), None)  # type: ignore[attr-defined]  # set above
        return (1.0, "accepted") if wrong is None else (self.valid_json, f"{wrong.json_path}: {wrong.message}"[:120])

    def _part(self, text: str) -> str | None:
        if self.where == "tag":
            return tagged(text, self.tag)
        if self.where == "fence":
            found = _FENCE.findall(text)
            return found[0] if len(found) == 1 else None
        return text


def _validator(schema: Mapping[str, Any] | str) -> Any:
    jsonschema = require_extra("jsonschema", "json", "Reward json_schema")
    if isinstance(schema, str):
        schema = _read(Path(schema).expanduser())
    if not isinstance(schema, Mapping):
        raise ConfigError(f"Reward json_schema: schema is {schema!r}; give a mapping, or the path of a .json file.")
    kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        raise ConfigError(
            f"Reward json_schema: the schema is no JSON schema: {error.json_path}: {error.message}."
        ) from error
    registry = require_extra("referencing", "json", "Reward json_schema").Registry()  # an empty one fetches nothing
    return kind(schema, registry=registry)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ConfigError(f"Reward json_schema: there is no file {path.resolve()} to take the schema from.")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"Reward json_schema: {path} is not JSON: {error}.") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
