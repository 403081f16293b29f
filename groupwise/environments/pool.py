"""The environments of a run: made when they are needed, one a completion, and used again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from groupwise.environments.environment import Environment


class EnvironmentPool:
    """Instances of one kind of environment."""

    def __init__(self, name: str, make: Callable[[], Environment]) -> None:
        """`make` builds one; `name` is the reward's and what records and errors call it."""
        self.name, self.make = name, make
        self._free: list[Environment] = []
        self.in_use: tuple[Environment, ...] = ()
        """Those of the latest completions, in their order, as the last step left them."""

    def take(self, count: int) -> tuple[Environment, ...]:
        """So many, in an order of their own that never changes; those of before are free again."""
        self._free = [*self.in_use, *self._free]
        while len(self._free) < count:
            self._free.append(self.make())
        self.in_use, self._free = tuple(self._free[:count]), self._free[count:]
        return self.in_use

    def discard(self, broken: Sequence[Environment]) -> None:
        """Close these for good: they have failed, or still hang, and are not used again."""
        gone = {id(environment) for environment in broken}
        self.in_use = tuple(each for each in self.in_use if id(each) not in gone)
        for environment in broken:
            with contextlib.suppress(Exception):  # it is broken already
                environment.close()

    def close(self) -> None:
        """Close all."""
        every = [*self.in_use, *self._free]
        self.in_use, self._free = (), []
        for environment in every:
            environment.close()
