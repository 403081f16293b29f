"""What the scorers of reasoning-gym use that is not their own, read from their source.

A scorer may call functions of its package; so may these. Their sources are followed, and what they name from outside
(builtins, the standard library, other packages) is what they can do.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType, NoneType
from typing import Any

PACKAGE = "reasoning_gym"
UNKNOWN = object()
CONSTANTS = {NoneType, bool, int, float, str, tuple, list, dict, set, frozenset, re.Pattern}


def used(scorer: type) -> set[str]:
    """Dotted names from outside the package that `score_answer` of a data set, and all it calls, may use."""
    names, waiting, seen = set[str](), [(scorer.score_answer, scorer)], set[int]()
    while waiting:
        function, owner = waiting.pop()
        if id(function) in seen:
            continue
        seen.add(id(function))
        for name, value in named(function, owner):
            if is_of_the_package(value) and isinstance(value, FunctionType):
                waiting.append((value, owner))
            elif is_of_the_package(value) and isinstance(value, type):
                waiting += [(method, value) for method in methods(value)]
            elif not isinstance(value, ModuleType):
                names.add(name)
    return names


def named(function: FunctionType, owner: type) -> Iterator[tuple[str, Any]]:
    """Every dotted name in a function that is no local variable's, with its value."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(tree, ast.FunctionDef)
    local = set(variables(function.__code__))
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in (each for part in tree.body for each in ast.walk(part)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield ast.unparse(node), None
        if not isinstance(node, ast.Name | ast.Attribute):
            continue
        root, *rest = ast.unparse(node).split(".") if is_dotted(node) else [""]
        if root in ("self", "cls") and len(rest) == 1:
            yield from member(owner, rest[0], is_called=id(node) in called)
        elif root and root not in local:
            yield from resolved(function, root, rest)


def is_dotted(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) or (isinstance(node, ast.Attribute) and is_dotted(node.value))


def variables(code: CodeType) -> Iterator[str]:
    yield from (*code.co_varnames, *code.co_cellvars)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant.co_name
            yield from variables(constant)


def member(owner: type, name: str, *, is_called: bool) -> Iterator[tuple[str, Any]]:
    """A method of the class; or an attribute of the object, which matters where it is called."""
    found = inspect.getattr_static(owner, name, None)
    function = getattr(found, "fget", getattr(found, "__func__", found))
    if isinstance(function, FunctionType):
        yield f"self.{name}", function
    elif is_called:
        yield f"{owner.__name__}.{name}", None


def resolved(function: FunctionType, root: str, rest: list[str]) -> Iterator[tuple[str, Any]]:
    """The value of a global or builtin name, as far as its attributes are known; of an object, its class."""
    value = {**vars(builtins), **function.__globals__}.get(root, UNKNOWN)
    name = [root]
    for part in rest:
        if not isinstance(value, ModuleType | type) or not hasattr(value, part):
            break
        value = getattr(value, part)
        name.append(part)
    if not callable(value) and not isinstance(value, ModuleType):
        value = type(value)
    if value not in CONSTANTS:
        yield full_name(value, ".".join(name)), getattr(value, "__func__", value)


def full_name(value: Any, as_written: str) -> str:
    """`json.loads`, `eval`: wherever it was imported from, and by whatever name."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", as_written)
    return name if module in (None, "builtins") else f"{module}.{name}"


def is_of_the_package(value: Any) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] == PACKAGE


def methods(owner: type) -> Iterator[FunctionType]:
    """Those that stand in the source of the class."""
    for value in vars(owner).values():
        function = getattr(value, "fget", getattr(value, "__func__", value))
        if (
            isinstance(function, FunctionType)
            and function.__code__.co_filename == sys.modules[owner.__module__].__file__
        ):
            yield function
