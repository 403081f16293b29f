"""The public modules of groupwise, the names in their `__all__`, and the tables of docs/api.md."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

PUBLIC_MODULES = (
    "groupwise",
    "groupwise.trl",
    "groupwise.config",
    "groupwise.data",
    "groupwise.tasks",
    "groupwise.rewards",
    "groupwise.rewards.sandbox",
    "groupwise.environments",
    "groupwise.testing",
    "groupwise.algo",
    "groupwise.runs",
    "groupwise.report",
    "groupwise.diagnose",
    "groupwise.check",
    "groupwise.lifecycle.iterate_reward_model",
    "groupwise.types",
    "groupwise.errors",
)


def api_tables() -> dict[str, str]:
    """The sections of docs/api.md: for each module its names, and for the site where each is defined."""
    return {"api": "\n\n".join(_section(name) for name in PUBLIC_MODULES)}


def public_names(module: str) -> Iterator[tuple[str, Any]]:
    """Every public name of a module with its object."""
    loaded = import_module(module)
    for name in loaded.__all__:
        yield name, getattr(loaded, name)


def home(module: str, name: str, found: Any) -> str:
    """The dotted path under which a public object is defined."""
    defined_in = getattr(found, "__module__", None)
    return f"{defined_in}.{name}" if str(defined_in).startswith("groupwise") else f"{module}.{name}"


def _section(module: str) -> str:
    found = {name: each for name, each in public_names(module) if not name.startswith("__")}
    documented = {name: each for name, each in found.items() if inspect.isclass(each) or inspect.isfunction(each)}
    rows = [f"| `{name}` | {_summary(each)} |" for name, each in documented.items()]
    others = ", ".join(f"`{name}`" for name in found if name not in documented)
    return "\n\n".join(
        (
            f"## {module}",
            _summary(import_module(module)),
            "\n".join(("| name | what it is |", "|---|---|", *rows)),
            *([f"Constants and types: {others}."] if others else []),
            "<!-- ::: " + " ".join(home(module, name, each) for name, each in documented.items()) + " -->",
        )
    )


def _summary(found: Any) -> str:
    """The first sentence of a docstring."""
    paragraph = " ".join((inspect.getdoc(found) or "").split("\n\n")[0].split())
    first: str = re.split(r"(?<=\.) (?=[A-Z])", paragraph)[0]
    return first.replace("|", "\\|")
