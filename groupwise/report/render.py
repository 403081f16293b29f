"""The jinja2 environment of the HTML pages: markup in values is escaped, and a page is self-contained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

MAX_TEXT = 6000
"""Characters of a prompt or completion; the run folder has the rest."""


def environment(visible: Callable[[str], str], **filters: Callable[[Any], Any]) -> Environment:
    """Loads templates by their path in the package, such as `report/page.html`.

    Args:
        visible: replaces the control characters of a text that is shown.
        filters: functions for the templates, beside jinja2's own and `cut`.
    """
    made = Environment(
        loader=PackageLoader("groupwise", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: visible(value) if _is_text(value) else value,
    )
    made.filters.update(filters, cut=cut)
    return made


def _is_text(value: Any) -> bool:
    """Whether this is text, and no markup that a macro has made."""
    return isinstance(value, str) and not hasattr(value, "__html__")


def cut(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"
