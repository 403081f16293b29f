"""Takes access tokens and passwords out of everything that is written or shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

HIDDEN = "***"
"""Stands where a secret stood."""

MIN_LENGTH = 8
"""A shorter value of the environment (`SORT_KEY=1`) is no secret, and hiding it would spoil every text."""

_WHO = "hf|hub|huggingface|wandb|openai|github|gitlab|auth|access|api|bearer|id|private|refresh|secret|session|use_auth"
_KEYS = re.compile(
    rf"(({_WHO}|push_to_hub)_)?token|(.*[_-])?(api_?key|passw(or)?d|secret|secret_key|credentials)|authorization",
    re.IGNORECASE,
)
"""Keys whose values are secrets; `pad_token` and its like are not."""

_VARIABLES = re.compile(r"(.*_)?(TOKEN|KEY|SECRET|PASSWORD|PASSWD|CREDENTIALS)(_.*)?", re.IGNORECASE)

_SHAPES = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|api_org_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,})"
    r"|(?<=://)[^/\s@\"']+(?=@)"  # https://user:password@host
    r"|(?<=bearer )[\w.~+/=-]{8,}"
    r"|(?<=[?&]token=)[^&\s\"']+|(?<=[?&]key=)[^&\s\"']+|(?<=[?&]api_key=)[^&\s\"']+"
    r"|(?<=[?&]access_token=)[^&\s\"']+|(?<=[?&]signature=)[^&\s\"']+",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """`text` without what looks like a token, and without the values of TOKEN, KEY and SECRET in the environment."""
    return _redact(text, _environment_values())


def without_secrets(value: Any) -> Any:
    """A copy of plain data in which every secret is replaced by `***`."""
    return _without(value, _environment_values())


def without_hidden(value: Any) -> Any:
    """A copy without the keys whose value was hidden: what was recorded is not what was meant."""
    if isinstance(value, Mapping):
        return {k: without_hidden(v) for k, v in value.items() if v != HIDDEN}
    return [without_hidden(item) for item in value] if isinstance(value, list) else value


def _without(value: Any, secrets: tuple[str, ...]) -> Any:
    if isinstance(value, Mapping):
        return {k: HIDDEN if v and _KEYS.fullmatch(str(k)) else _without(v, secrets) for k, v in value.items()}
    if isinstance(value, str):
        return _redact(value, secrets)
    return [_without(item, secrets) for item in value] if isinstance(value, list | tuple) else value


def _redact(text: str, secrets: tuple[str, ...]) -> str:
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return _SHAPES.sub(HIDDEN, text)


def _environment_values() -> tuple[str, ...]:
    """Longest first, so that a secret inside another one leaves no rest."""
    found = {v for name, v in os.environ.items() if len(v) >= MIN_LENGTH and _VARIABLES.fullmatch(name)}
    return tuple(sorted(found, key=len, reverse=True))
