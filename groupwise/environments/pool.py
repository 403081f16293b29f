"""The environments of a run: made when they are needed, one a completion, and used again."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence

from groupwise.environments.environment import Environment


class EnvironmentPool:
    """Instances of one kind of environment. They are closed with the pool, at the latest when the program ends."""

    def __init__(self, name: str, make: Callable[[], Environment]) -> None:
        """`make` builds one; `name` is the reward's and what records and errors call it."""
        self.name, self.make = name, make
        self._every: list[Environment] = []
        self._num_in_use = 0
        weakref.finalize(self, _close, self._every)

    @property
    def in_use(self) -> tuple[Environment, ...]:
        """Those of the latest completions, in their order, as their last step left them; failed ones are gone."""
        return tuple(self._every[: self._num_in_use])

    def take(self, count: int) -> tuple[Environment, ...]:
        """The first so many, which are the same ones in the same order every time; those of before are free again."""
        while len(self._every) < count:
            self._every.append(self.make())
        self._num_in_use = count
        return self.in_use

    def discard(self, broken: Sequence[Environment]) -> None:
        """Close these for good: they have failed, or still hang, and are not used again."""
        gone = {id(environment) for environment in broken}
        self._num_in_use = sum(id(each) not in gone for each in self.in_use)
        self._every[:] = [each for each in self._every if id(each) not in gone]
        _close(list(broken))

    def close(self) -> None:
        """Close all."""
        self._num_in_use = 0
        _close(self._every)


def _close(environments: list[Environment]) -> None:
    while environments:
        with contextlib.suppress(Exception):  # nothing is asked of it any more
            environments.pop().close()
