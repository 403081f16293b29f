"""Finds the sandboxed workers that a reward function holds, so that a missing sandbox is an error early."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import suppress
from types import CodeType, FunctionType, MethodType
from typing import TYPE_CHECKING, Any

from groupwise.errors import ConfigError

if TYPE_CHECKING:
    from groupwise.rewards.function import RewardFunction


def check_sandboxes(rewards: Sequence[RewardFunction]) -> None:
    """Raise `ConfigError` with the name of the first reward that has no sandbox here and needs one."""
    for reward in rewards:
        for worker in _workers(reward.call, set()):
            try:
                worker.check_sandbox()
            except ConfigError as error:
                raise ConfigError(f'Reward "{reward.name}": {error}') from None


def _workers(value: Any, seen: set[int]) -> Iterator[Any]:
    """Objects with a method `check_sandbox` that a callable is, holds, closes over or finds in its module."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if _is_worker(value):
        yield value
        return
    for part in _parts(value):
        if _is_worker(part) or isinstance(part, functools.partial | FunctionType | MethodType):
            yield from _workers(part, seen)


def _is_worker(value: Any) -> bool:
    return hasattr(type(value), "check_sandbox")


def _parts(value: Any) -> Sequence[Any]:
    if isinstance(value, functools.partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, MethodType):
        return [value.__func__, *_attributes(value.__self__)]
    if isinstance(value, FunctionType):
        defaults = [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        return [*defaults, *_closed_over(value), *_of_its_module(value)]
    return [*_attributes(value), type(value).__call__]


def _attributes(value: Any) -> Sequence[Any]:
    """Its own, and its class's with their methods."""
    return [*getattr(value, "__dict__", {}).values(), *vars(type(value)).values()]


def _closed_over(function: FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # a name that has no value yet
            yield cell.cell_contents


def _of_its_module(function: FunctionType) -> Iterator[Any]:
    """Globals of the module that it reads by name, without imported functions."""
    known = function.__globals__
    for value in (known[name] for name in _names(function.__code__) if name in known):
        if not isinstance(value, FunctionType) or value.__globals__ is known:
            yield value


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function looks up, those of the functions inside it too."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
