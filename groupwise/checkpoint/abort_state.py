"""Which exact state a run that breaks off can still save.

Weights change only inside an update. Up to its first optimizer step the state of the step before is all there, once the
small state that moves earlier (the order of the problems, averages) is put back from a copy; from its end on, that of
the step itself is. In between there is none, and the last checkpoint has to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from groupwise.train.learner import Learner


@dataclass(frozen=True)
class Exact:
    """A state to go on from, and what is left to be written before it may be saved."""

    step: int
    state: dict[str, Any]
    write_first: Callable[[], None]


class Rescue:
    """Follows a run from step to step."""

    def __init__(self, learner: Learner) -> None:
        self.learner = learner
        self._exact: Exact | None = None
        self._num_rollouts: int | None = None
        learner.optimizer.register_step_pre_hook(lambda *_: self._forget())

    def begin(self, last_step: int, state: Mapping[str, Any]) -> None:
        """A step begins; `state` is what a checkpoint of the last one holds beside tensors."""
        self._hold(last_step, state)
        self._num_rollouts = self.learner.num_rollouts

    def finish(self, step: int, state: Mapping[str, Any], write_first: Callable[[], None] = lambda: None) -> None:
        """The weights of a step are final; `write_first` writes what its record lacks."""
        self._hold(step, state, write_first)
        self._num_rollouts = None

    @property
    def exact(self) -> Exact | None:
        """What can be saved now."""
        has_moved = self._num_rollouts is not None and self.learner.num_rollouts != self._num_rollouts
        return None if has_moved else self._exact

    def _hold(self, step: int, state: Mapping[str, Any], write_first: Callable[[], None] = lambda: None) -> None:
        copy = json.loads(json.dumps(state, default=float))  # what goes on changing must not change it
        self._exact = Exact(step, copy, write_first)

    def _forget(self) -> None:
        self._exact = None
