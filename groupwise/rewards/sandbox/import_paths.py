"""Paths that a worker has to read to import a function: packages, and the folder of its module."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from groupwise.errors import ConfigError


@dataclass(frozen=True)
class ImportPaths:
    """Files and folders to show, and the folders that imports are looked up in."""

    readable: Sequence[Path]
    path: Sequence[str]


def installed_packages() -> list[Path]:
    """The site-packages of this Python."""
    return list(dict.fromkeys(Path(sysconfig.get_path(kind)) for kind in ("purelib", "platlib")))


def paths_for(function: str) -> ImportPaths:
    """The paths that `package.module:function` needs: the installed packages and its own package, nothing beside it."""
    module, colon, attribute = function.partition(":")
    if not (module and colon and attribute):
        raise ConfigError(f'"{function}" names no function; write package.module:function.')
    root = _root(module.partition(".")[0])
    packages = installed_packages()
    is_installed = any(folder in root.parents for folder in packages)
    readable = packages if is_installed else [*packages, root]
    return ImportPaths(readable, list(dict.fromkeys([*map(str, packages), str(root.parent)])))


def _root(package: str) -> Path:
    """The folder of a top-level package, or the file of a module; found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise ConfigError(f"There is no module {package} to take a function from (looked in {', '.join(sys.path)}).")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    if spec.origin is None or not Path(spec.origin).exists():
        raise ConfigError(f"The module {package} is built into Python; name a function of a package or a file.")
    return Path(spec.origin)
