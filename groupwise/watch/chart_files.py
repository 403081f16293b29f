"""Where the files of the chart library lie, and whether the packages of the extra are installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from groupwise.errors import ConfigError

_NEEDED = {"starlette": "starlette", "uvicorn": "uvicorn", "uplot": "uplot-python"}
"""Module -> package. uplot-python holds the JavaScript of uPlot, 120 kB; its Python is never imported."""


def require_packages() -> None:
    """Raise `ConfigError` with the command that installs what the page needs, where something is missing."""
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        are = "packages {}, which are" if len(missing) > 1 else "package {}, which is"
        raise ConfigError(
            f"The page needs the {are.format(', '.join(missing))} not installed. Install what it needs with: "
            'pip install "groupwise[watch]"'
        )


def chart_file(name: str) -> Path:
    """A file of the chart library; `ConfigError` where the package is not the one that has it."""
    spec = find_spec("uplot")
    for place in (spec and spec.submodule_search_locations) or ():
        if (path := Path(place) / "static" / name).is_file():
            return path
    raise ConfigError(
        f'The package uplot-python has no file static/{name}. Install it with: pip install "groupwise[watch]"'
    )
