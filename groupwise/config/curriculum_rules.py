"""Rules for the keys of a curriculum."""

from __future__ import annotations

from groupwise.config.fields import CurriculumFields
from groupwise.config.mistakes import Mistakes
from groupwise.config.settings import Settings

_SHARED = {"curriculum", "curriculum_reward", "curriculum_solved_at"}
_OF_LEVELS = {f"curriculum_{name}" for name in ("window", "up_at", "down_at", "review")}
_OF_POOLS = set(CurriculumFields.model_fields) - _SHARED - _OF_LEVELS


def check_curriculum(config: Settings, problems: Mistakes) -> None:
    """Bounds that leave no room between them."""
    if config.curriculum_hard_at >= config.curriculum_easy_at:
        problems.add(
            f"curriculum_hard_at {config.curriculum_hard_at:g} is not below curriculum_easy_at "
            f"{config.curriculum_easy_at:g}: a problem cannot be both. Set hard_at lower."
        )
    if config.curriculum_down_at >= config.curriculum_up_at:
        problems.add(
            f"curriculum_down_at {config.curriculum_down_at:g} is not below curriculum_up_at "
            f"{config.curriculum_up_at:g}: the level would move at every step. Set curriculum_down_at lower."
        )


def without_effect(config: Settings) -> str | None:
    """A note about keys that were written and belong to another kind of curriculum, or None."""
    used = {"none": set(), "pools": _SHARED | _OF_POOLS, "levels": _SHARED | _OF_LEVELS}[config.curriculum]
    fields = CurriculumFields.model_fields
    changed = {name for name in fields if getattr(config, name) != fields[name].default}
    idle = sorted(changed - used - {"curriculum"})
    return f"{', '.join(idle)} without effect: curriculum is {config.curriculum}." if idle else None
