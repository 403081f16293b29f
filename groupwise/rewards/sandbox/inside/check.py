"""Runs tests of a program in another process: the tests see stand-ins for its functions.

Whatever a stand-in returns has been rebuilt from JSON, so comparing it runs none of the program's code.
"""

from __future__ import annotations

import ast
import builtins
import importlib
import sys

from .frames import next_frame, private_pipes, read_frame, write_frame
from .plain_values import decoded, encoded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any  # takes a third of the time that a worker starts in

    _Ask = Callable[[dict[str, Any]], dict[str, Any]]


class ProgramError(Exception):
    """The program raised what has no counterpart here, or answered what it could not have returned."""


def check(task: dict[str, Any]) -> None:
    """Run each test that arrives and report whether it passed, until the pipe closes."""
    inward, outward = private_pipes()

    def ask(call: dict[str, Any]) -> dict[str, Any]:
        write_frame(outward, {"call": call})
        answer = read_frame(inward)
        return answer if isinstance(answer, dict) else {}

    while (test := next_frame(inward)) is not None:
        write_frame(outward, {"failed": _failure(test["test"], test["entry_point"], ask)})


def _failure(source: str, entry_point: str | None, ask: _Ask) -> str | None:
    """The failure of a test, None where it passed: run to its end, and through its `check` where it defines one."""
    try:
        tree = ast.parse(source)
        module = Remote(ask, 0)
        called = {
            node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
        }
        names: dict[str, Any] = {
            name: importlib.import_module(name)
            if name in sys.stdlib_module_names and name not in called  # `math.pi` without an import
            else Function(module, name)
            for name in _missing(tree)
        }
        if entry_point is not None:
            names["candidate"] = names[entry_point] = _entry(module, entry_point)
        names["__name__"] = "test"
        exec(compile(tree, "test", "exec", dont_inherit=True), names)
        if callable(names.get("check")) and entry_point is not None:
            names["check"](names["candidate"])
    except BaseException as error:  # a test may raise anything; EOFError is the end of a broken pipe
        if isinstance(error, EOFError):
            raise
        return f"{type(error).__name__}: {error}"[:300]
    return None


def _entry(module: Remote, entry_point: str) -> Callable[..., Any]:
    """The function of that name; of `Solution().name`, the method of an object made for each call."""
    kind, is_method, name = entry_point.partition("().")
    if not is_method:
        return Function(module, entry_point)
    return lambda *args, **kwargs: getattr(Function(module, kind)(), name)(*args, **kwargs)


def _missing(tree: ast.AST) -> set[str]:
    """Names that a test reads and neither it nor Python defines: those it expects of the program.

    A builtin name is the builtin, or a program could bring its own `abs` and `all` to its tests.
    """
    read = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    own = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            own.add(node.name)
    return read - own - set(dir(builtins))


class Remote:
    """An object of the program that is no plain value: its methods can be called, and nothing else."""

    def __init__(self, ask: _Ask, number: int) -> None:
        self._ask, self._number = ask, number

    def __getattr__(self, name: str) -> Function:
        if name.startswith("_"):
            raise AttributeError(name)
        return Function(self, name)


class Function:
    """A function of the program; arguments go as copies, so one that works in place changes nothing here."""

    def __init__(self, owner: Remote, name: str) -> None:
        self._owner, self._name = owner, name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        sent = {"args": encoded(list(args)), "kwargs": encoded(kwargs)}
        owner = self._owner
        answer = owner._ask({"object": owner._number, "name": self._name, **sent})
        if "value" in answer:
            return decoded(answer["value"])
        if isinstance(kept := answer.get("kept"), int):
            return Remote(owner._ask, kept)
        raise _exception(str(answer.get("raised")), str(answer.get("message")))


def _exception(name: str, message: str) -> Exception:
    """The built-in exception of that name, so that a test may expect it; never one that ends a loop quietly."""
    kind: Any = getattr(builtins, name, None)
    is_known = isinstance(kind, type) and issubclass(kind, Exception)
    if not is_known or issubclass(kind, StopIteration | StopAsyncIteration | EOFError | Warning):
        return ProgramError(f"{name}: {message}")
    try:
        exception = kind(message)
    except TypeError:  # UnicodeDecodeError and the like want more than a message
        return ProgramError(f"{name}: {message}")
    assert isinstance(exception, Exception)
    return exception
