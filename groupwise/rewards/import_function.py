"""Imports a user's reward function: `file.py:function` by path, `module:function` by import.

Several runs of one process may have files, neighbours and modules of the same names in different folders: each gets
its own. An import inside a function is only made when the function runs, and finds the folder that was used last.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import os
import re
import sys
import traceback
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from groupwise.errors import ConfigError, did_you_mean

_PACKAGE = Path(__file__).parents[1]
_FILE = re.compile(r"(?P<file>.+\.py)(:(?P<function>.*))?")
_MODULE = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<function>[A-Za-z_][\w.]*)")


_REWARD = "a reward function"
"""What most files are read for."""

_ADDED: set[str] = set()
"""Folders of rewards that this process has added to the path."""


def is_function_name(spec: str) -> bool:
    """Whether this names a function by its file or its module."""
    return bool(_FILE.fullmatch(spec) or _MODULE.fullmatch(spec))


def load_function(spec: str, folder: Path) -> Callable[..., Any]:
    """The function that `file.py:function` (relative to `folder`) or `module:function` names."""
    if match := _FILE.fullmatch(spec):
        if not match["function"]:
            raise ConfigError(
                f'Reward "{spec}" names a file only; name the function in it: "{match["file"]}:function".'
            )
        return load_from_file(match["file"], match["function"], folder)
    match = _MODULE.fullmatch(spec)
    assert match is not None, f"{spec} names no function"
    return load_from_module(match["module"], match["function"], folder)


def load_object(spec: str, folder: Path, what: str) -> Callable[..., Any]:
    """The class or function that `file.py:Name` or `module:Name` names; errors call it `what`, such as "a reward"."""
    if match := _FILE.fullmatch(spec):
        if not match["function"]:
            raise ConfigError(f'"{spec}" names a file only; name {what} in it: "{match["file"]}:Name".')
        module = _execute(_file(match["file"], folder, what), what)
        return _attribute(module, match["function"], match["file"], is_class_allowed=True)
    match = _MODULE.fullmatch(spec)
    if match is None:
        raise ConfigError(f'"{spec}" names nothing to make {what} of; write file.py:Name or module:Name.')
    return _attribute(_module(match["module"], match["function"], folder, what), match["function"], spec, True)


def load_from_file(path: str, attribute: str, folder: Path) -> Callable[..., Any]:
    """The function `attribute` of the Python file `path`, a relative path counted from `folder`."""
    file = _file(path, folder, _REWARD)
    return _attribute(_execute(file), attribute, str(file))


def _file(path: str, folder: Path, what: str) -> Path:
    file = (folder / Path(path).expanduser()).resolve()
    if not file.is_file():
        beside = [p.name for p in file.parent.glob("*.py")] if file.parent.is_dir() else []
        raise ConfigError(f"There is no file {file} to take {what} from.{did_you_mean(file.name, beside)}")
    return file


def load_from_module(name: str, attribute: str, folder: Path) -> Callable[..., Any]:
    """The function `attribute` of an importable module; `folder` and the current one count as importable."""
    return _attribute(_module(name, attribute, folder, _REWARD), attribute, name)


def _module(name: str, attribute: str, folder: Path, what: str) -> ModuleType:
    _add_to_path(Path.cwd())
    _add_to_path(folder)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigError(
                f"There is no module {name} to take {what} from. For a file give its path: "
                f"{name.replace('.', '/')}.py:{attribute}."
            ) from error
        raise _import_failure(name, error, what) from error
    except (Exception, SystemExit) as error:
        raise _import_failure(name, error, what) from error


def failing_line(error: BaseException, call: Callable[..., Any] | None = None) -> str:
    """Where an exception came from, in files that are not ours.

    The deepest line in the file of `call`, a reward function; elsewhere where nothing of that file has run; its
    definition where nothing of the user's has run at all (a call that Python refused). Without `call`: the deepest line
    in the first file.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    own = None if call is None else source_file(call)
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [frame for frame in frames if frame.filename == own or not _is_ours(frame.filename)]
    if call is not None and not theirs:
        return _definition(call)
    theirs = theirs or list(frames)
    file = own or theirs[0].filename
    last = next((frame for frame in reversed(theirs) if frame.filename == file), theirs[-1])
    return f"{last.filename}, line {last.lineno}"


def _is_ours(filename: str) -> bool:
    """Whether a file is a part of groupwise or of Python's import."""
    return filename.startswith((f"{_PACKAGE}{os.sep}", "<frozen")) or filename == importlib.__file__


def _definition(call: Callable[..., Any]) -> str:
    """The file and line in which a callable was written, where it was written in Python."""
    code = _code(call)
    return "" if code is None else f"{code.co_filename}, line {code.co_firstlineno}"


def source_file(call: Callable[..., Any]) -> str | None:
    """The file a callable was written in, where it was written in Python."""
    code = _code(call)
    return None if code is None else code.co_filename


def _code(call: Callable[..., Any]) -> CodeType | None:
    while isinstance(call, functools.partial):
        call = call.func
    call = inspect.unwrap(call)
    return getattr(call, "__code__", None) or getattr(type(call).__call__, "__code__", None)


def _execute(file: Path, what: str = _REWARD) -> ModuleType:
    """Import a file by its path; again when it has changed, since the name holds its time stamp."""
    stamp = hashlib.sha256(f"{file}:{file.stat().st_mtime_ns}".encode()).hexdigest()[:12]
    name = f"_groupwise_rewards_{file.stem}_{stamp}"
    if name in sys.modules:
        return sys.modules[name]
    _add_to_path(file.parent)
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None, f"{file} has no import spec"
    assert spec.loader is not None, f"{file} has no loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # a script may read its command line and end
        del sys.modules[name]
        raise _import_failure(str(file), error, what) from error
    return module


def _add_to_path(folder: Path) -> None:
    """Let what is imported next find the modules of `folder` before those of other rewards' folders.

    All of them stand at the end of the path, so that nothing installed is hidden.
    """
    place = str(folder)
    if place not in sys.path or place in _ADDED:
        others = [path for path in sys.path if path in _ADDED and path != place]
        sys.path[:] = [path for path in sys.path if path not in _ADDED and path != place] + [place, *others]
        _ADDED.add(place)
    importlib.invalidate_caches()
    _forget_other_modules()


def _forget_other_modules() -> None:
    """Modules of the same name in another folder were imported for other rewards, whose functions keep them."""
    for name, module in list(sys.modules.items()):
        if "." in name or _home(module) not in _ADDED:
            continue
        spec = PathFinder.find_spec(name)
        if spec is not None and spec.origin != module.__file__:
            for part in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
                del sys.modules[part]


def _home(module: ModuleType) -> str | None:
    """The folder in which a module or package was found."""
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    return str(Path(file).parents[1 if hasattr(module, "__path__") else 0])


def _import_failure(name: str, error: BaseException, what: str) -> ConfigError:
    return ConfigError(f"Importing {name} for {what} failed: {type(error).__name__}: {error} ({failing_line(error)}).")


def _attribute(module: ModuleType, attribute: str, where: str, is_class_allowed: bool = False) -> Callable[..., Any]:
    """`attribute` (dots reach into objects) of a module, which must be something to call."""
    value: Any = module
    for part in attribute.split("."):
        if not hasattr(value, part):
            names = [n for n, v in vars(value).items() if callable(v) and not n.startswith("_")]
            listed = f" It has: {', '.join(names)}." if names else ""
            raise ConfigError(f'{where} has no function "{part}".{listed}{did_you_mean(part, names)}')
        value = getattr(value, part)
    if (isinstance(value, type) and not is_class_allowed) or not callable(value):
        kind = "a class" if isinstance(value, type) else repr(value)
        raise ConfigError(
            f"{where}:{attribute} is {kind}; a reward is a function or "
            "an object that can be called, such as an instance of a class with __call__."
        )
    function: Callable[..., Any] = value
    return function
