"""Reads from the source which functions of groupwise a function calls, in the order in which they are evaluated.

Every value gets the class that its annotation names, so `loop.collector.collect(...)` leads to `Collector.collect`.
A call of anything else (a callback, a function of torch) is left out.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import groupwise

PACKAGE = Path(groupwise.__file__).parent


@dataclass(frozen=True)
class Call:
    """A call as it is written, the function that it leads to, and what that returns."""

    written: str
    target: Any
    returns: str

    @property
    def name(self) -> str:
        return str(self.target.__qualname__)

    @property
    def file(self) -> str:
        """`train/loop.py`; empty outside of groupwise."""
        return file_of(self.target)


@dataclass(frozen=True)
class Instance:
    """What is known of a value: its class."""

    kind: Any


def file_of(target: Any) -> str:
    """The file of a class or function of groupwise, from the package's folder on; empty for any other."""
    path = Path(str(sys.modules[target.__module__].__file__ or ""))
    return path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else ""


@functools.cache
def syntax_of(target: Any) -> ast.FunctionDef:
    """The definition of a function; of a context manager, the function below its decorator."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(target)))).body
    assert isinstance(definition, ast.FunctionDef), target
    return definition


def calls_of(function: Any) -> list[Call]:
    """The calls of one function whose targets can be told; a function that is called twice in a row is listed once."""
    scope = Scope(function)
    found: list[Call] = []
    for node in in_order(syntax_of(function)):
        scope.learn(node)
        if isinstance(node, ast.Call) and (target := scope.target(node)) is not None:
            call = Call(ast.unparse(node.func), target, returned_by(target))
            if not found or found[-1].target is not target:
                found.append(call)
    return found


def in_order(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes as they are evaluated: what is inside first, the value of an assignment before its names."""
    children = list(ast.iter_child_nodes(node))
    if isinstance(node, ast.Assign | ast.AnnAssign):
        children.reverse()
    for child in children:
        yield from in_order(child)
    yield node


def returned_by(target: Any) -> str:
    """The annotation of what a function returns, without what wraps it; empty for nothing."""
    if isinstance(target, type):
        return target.__name__
    text = str(inspect.unwrap(target).__annotations__.get("return", ""))
    for wrapper in ("Iterator[", "AbstractContextManager["):
        text = text.removeprefix(wrapper).removesuffix("]") if text.startswith(wrapper) else text
    return "" if text == "None" else text


class Scope:
    """The values that a function knows by name."""

    def __init__(self, function: Any) -> None:
        self._function = inspect.unwrap(getattr(function, "__func__", function))
        self._globals = self._function.__globals__
        self._known: dict[str, Any] = {name: Instance(kind) for name, kind in hints(self._function).items()}
        owner = self._owner()
        if owner is not None:
            self._known |= {"self": Instance(owner), "cls": owner}

    def _owner(self) -> Any:
        name, _, _ = self._function.__qualname__.rpartition(".")
        return self._globals.get(name)

    def learn(self, node: ast.AST) -> None:
        """Take in the names that an assignment or a `with` gives values to."""
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            self._known[node.target.id] = Instance(self._globals.get(ast.unparse(node.annotation)))
        elif isinstance(node, ast.withitem) and isinstance(node.optional_vars, ast.Name):
            self._known[node.optional_vars.id] = self.value(node.context_expr)
        for target, value in assigned(node):
            if isinstance(target, ast.Name):
                self._known.setdefault(target.id, self.value(value))

    def target(self, call: ast.Call) -> Any:
        """The function or class that is called; None where that cannot be told, and for built-in ones."""
        found = self.value(call.func)
        is_ours = isinstance(found, type | types.FunctionType | types.MethodType) and found.__module__ != "builtins"
        return found if is_ours and hasattr(sys.modules[found.__module__], "__file__") else None

    def value(self, node: ast.expr) -> Any:
        """A module, class or function, or an `Instance` of a class."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id, self._globals.get(node.id))
        if isinstance(node, ast.Attribute):
            return attribute(self.value(node.value), node.attr)
        if isinstance(node, ast.Call) and (target := self.target(node)) is not None:
            return Instance(target if isinstance(target, type) else hints(target).get("return"))
        return None


def attribute(value: Any, name: str) -> Any:
    """An attribute of a value: a method of its class, or the class that a field or property is annotated with."""
    if not isinstance(value, Instance):
        return getattr(value, name, None)
    kind = value.kind
    if kind is None:
        return None
    found = getattr(kind, name, None)
    if isinstance(found, types.FunctionType):  # an argument of `__init__` may have the same name
        return found
    if name in (fields := {**hints(getattr(kind, "__init__", None)), **hints(kind)}):
        return Instance(fields[name])
    if isinstance(found, property):
        return Instance(hints(found.fget).get("return"))
    return found or _set_at_start(kind, name)


def _set_at_start(kind: type, name: str) -> Any:
    """The value that `__init__` gives to an attribute, alone or as one of several."""
    start = vars(kind).get("__init__")
    if not isinstance(start, types.FunctionType):
        return None
    scope = Scope(start)
    for node in syntax_of(start).body:
        for target, value in assigned(node):
            if ast.unparse(target) == f"self.{name}":
                return scope.value(value)
    return None


def assigned(node: ast.AST) -> list[tuple[ast.expr, ast.expr]]:
    """Target and value of an assignment; of `a, b = x, y` two pairs."""
    if not isinstance(node, ast.Assign):
        return []
    (target, *_), value = node.targets, node.value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        return list(zip(target.elts, value.elts, strict=True))
    return [(target, value)]


@functools.cache
def hints(target: Any) -> dict[str, Any]:
    """The classes that the annotations of a class or function name, without `| None`."""
    try:
        found = typing.get_type_hints(target)
    except (TypeError, NameError):  # nothing that has annotations, or one that only a type checker can read
        return {}
    return {name: _class_of(kind) for name, kind in found.items()}


def _class_of(kind: Any) -> Any:
    kinds = [each for each in typing.get_args(kind) if each is not type(None)] if _is_optional(kind) else [kind]
    return kinds[0] if isinstance(kinds[0], type) else None


def _is_optional(kind: Any) -> bool:
    return typing.get_origin(kind) in (typing.Union, types.UnionType)
