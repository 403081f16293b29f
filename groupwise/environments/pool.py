"""The environments of a run: made when they are needed, one a completion, and used again."""

from __future__ import annotations

import contextlib
import weakref
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

from groupwise.environments.environment import Environment
from groupwise.errors import DataError, did_you_mean, listed
from groupwise.tool_calls import Schema
from groupwise.types import Problem

KIND = "environment"
"""The column of the data that chooses among several kinds."""


class EnvironmentPool:
    """Instances of one kind of environment. They are closed with the pool, at the latest when the program ends."""

    def __init__(self, name: str, make: Callable[[], Environment], *, has_reward: bool = True) -> None:
        """`make` builds one; `name` is the reward's, where it gives one, and what records and errors call it."""
        self.name, self.make, self.has_reward = name, make, has_reward
        self.latest: tuple[Environment, ...] = ()
        """Those of the latest completions, in their order, failed ones too, as their last step left them."""
        self._every: list[Environment] = []
        weakref.finalize(self, _close, self._every)

    def pool_of(self, problem: Problem) -> EnvironmentPool:
        """The pool of the kind that this problem is played in.

        Raises:
            DataError: no such kind.
        """
        return self

    @property
    def kinds(self) -> dict[str, EnvironmentPool]:
        """Value of the column `environment` -> the pool; "" where no column chooses."""
        return {"": self}

    @property
    def played(self) -> list[Any]:
        """The latest ones as the user has made them: what an adapter plays, not the adapter."""
        return [getattr(each, "played", each) for each in self.latest]

    @cached_property
    def schemas(self) -> tuple[Schema, ...]:
        """The tools that its environments show."""
        (first,) = self.instances(1)
        return tuple(tool.schema for tool in getattr(first, "tools", ()))

    def take(self, problems: Sequence[Problem]) -> tuple[Environment, ...]:
        """One for each problem, the same ones in the same order every time; those of before are free again.

        Raises:
            DataError: a problem of no known kind.
        """
        self.latest = tuple(self.instances(len(problems)))
        return self.latest

    def instances(self, count: int) -> list[Environment]:
        """The first so many."""
        while len(self._every) < count:
            self._every.append(self.make())
        return self._every[:count]

    def posed(self, split: str) -> list[dict[str, Any]] | None:
        """The problems that the environment brings itself; None: it brings none of this split."""
        (first,) = self.instances(1)
        rows = first.problems(split) if hasattr(first, "problems") else None
        return None if rows is None else list(rows)

    def discard(self, broken: Sequence[Environment]) -> None:
        """Close these for good: they have failed, or still hang, and are not used again."""
        gone = {id(environment) for environment in broken}
        mine = [each for each in self._every if id(each) in gone]
        self._every[:] = [each for each in self._every if id(each) not in gone]
        _close(mine)

    def close(self) -> None:
        """Close all."""
        self.latest = ()
        _close(self._every)


class MixedPool(EnvironmentPool):
    """Several kinds, of which the column `environment` of the data chooses one for each problem."""

    def __init__(self, pools: Mapping[str, EnvironmentPool]) -> None:
        self.name, self.latest, self._pools = " or ".join(pools), (), dict(pools)

    @property
    def kinds(self) -> dict[str, EnvironmentPool]:
        return self._pools

    def pool_of(self, problem: Problem) -> EnvironmentPool:
        name = problem.columns.get(KIND)
        if name not in self._pools:
            raise DataError(
                f"{problem.label} has {KIND} {name!r}; there is {listed([*self._pools])}."
                f"{did_you_mean(str(name), self._pools)}"
            )
        return self._pools[name]

    def take(self, problems: Sequence[Problem]) -> tuple[Environment, ...]:
        pools = [self.pool_of(problem) for problem in problems]
        counts = Counter(map(id, pools))
        instances = {id(pool): iter(pool.instances(counts[id(pool)])) for pool in pools}
        self.latest = tuple(next(instances[id(pool)]) for pool in pools)
        return self.latest

    def discard(self, broken: Sequence[Environment]) -> None:
        for pool in self._pools.values():
            pool.discard(broken)

    def close(self) -> None:
        self.latest = ()
        for pool in self._pools.values():
            pool.close()


def _close(environments: list[Environment]) -> None:
    while environments:
        with contextlib.suppress(Exception):  # nothing is asked of it any more
            environments.pop().close()
