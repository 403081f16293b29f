"""Builds `Settings` from the keys that a user wrote, in whatever vocabulary: translated, checked one by one
and together. Everything that is wrong is reported at once, as one `ConfigError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from groupwise.config import objective_keys as objectives
from groupwise.config.checks import check_together
from groupwise.config.compat.batch_words import translate_batch
from groupwise.config.compat.conventions import DEFAULT_PRESET
from groupwise.config.compat.translate import Translation, translate
from groupwise.config.defaults import adopt_recipe_defaults
from groupwise.config.mistakes import Mistakes
from groupwise.config.settings import Settings


def make_settings(written: Mapping[str, Any], subject: str = "GRPOConfig") -> Settings:
    """The settings that `written` asks for; nothing written is DeepSeekMath's GRPO.

    Raises:
        ConfigError: every mistake, one sentence each, under the name `subject`.
    """
    problems = Mistakes(subject)
    state = translate_batch(translate(written, problems))
    loss = objectives.flatten(state.objective, problems, DEFAULT_PRESET[state.conventions])
    state = adopt_recipe_defaults(state, loss.preset)
    settings = _checked_fields(state)
    length = state.fields.get("max_completion_length", 512)
    objective, notes = objectives.resolve(loss, length, problems)
    if settings is not None and objective is not None:
        settings.complete(dict(written), loss.preset, objective)
        notes += check_together(settings, problems)
    problems.raise_if_any()
    assert settings is not None
    settings.keep_notes(state.notes + notes)
    return settings


def replaced(settings: Settings, **changes: Any) -> Settings:
    """The same settings with some keys written differently."""
    return make_settings({**settings.as_written, **changes})


def _checked_fields(state: Translation) -> Settings | None:
    """Let pydantic check types and ranges; None where they do not all fit."""
    try:
        return Settings(**{**state.defaults, **state.fields})
    except (ValidationError, UnicodeEncodeError) as error:
        state.problems.add_invalid(error, Settings)
        return None
