"""The exact state that an aborted run can still save.

Weights change only inside an update. Up to its first optimizer step the state of the step before is all there, once the
small state that moves earlier (the order of the problems, averages) is put back from a copy; from its end on, that of
the step itself is. In between there is none, and the last checkpoint has to do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from groupwise.train.learner import Learner


@dataclass(frozen=True)
class Exact:
    """A state to resume from, and what is left to be written before it may be saved."""

    step: int
    state: dict[str, Any]
    write_first: Callable[[], None]


class ExactState:
    """Follows a run from step to step; `state_of_parts` is what a checkpoint holds beside tensors, plain JSON."""

    def __init__(self, learner: Learner, state_of_parts: Callable[[], dict[str, Any]]) -> None:
        self._learner, self._state_of_parts = learner, state_of_parts
        self._exact: Exact | None = None
        self._num_rollouts: int | None = None
        learner.optimizer.register_step_pre_hook(lambda *_: self._forget())

    def begin(self, last_step: int) -> None:
        """A step begins: what a checkpoint of the last one holds is kept as a copy."""
        self._hold(last_step, {})
        self._num_rollouts = self._learner.num_rollouts

    def commit(self, step: int, unfinished: dict[str, Any], write_first: Callable[[], None]) -> None:
        """The weights of a step are final; `write_first` writes its groups, `unfinished` is what is left to do."""
        self._hold(step, {"unfinished": unfinished}, write_first)
        self._num_rollouts = None

    def finish(self, step: int) -> None:
        """The step is recorded."""
        self._hold(step, {})

    @property
    def exact(self) -> Exact | None:
        """The state that can be saved now; None in the middle of an update."""
        has_moved = self._num_rollouts is not None and self._learner.num_rollouts != self._num_rollouts
        return None if has_moved else self._exact

    def _hold(self, step: int, more: dict[str, Any], write_first: Callable[[], None] = lambda: None) -> None:
        state = {**self._state_of_parts(), **more}
        copy = json.loads(json.dumps(state, default=float))  # the parts go on changing
        self._exact = Exact(step, copy, write_first)

    def _forget(self) -> None:
        self._exact = None
