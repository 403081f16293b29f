"""An engine whose completions come from a function: for tests, documentation, and loops without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from groupwise.rollout.engine import Capabilities
from groupwise.types import Completion, Request

Script = Callable[[Request, int], Sequence[int]]
"""(request, index of the completion) -> token ids."""


class ScriptedEngine:
    """Completes every request by a function. Log-probs are 0."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.version = 0
        self.capabilities = Capabilities("scripted")

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        for number, request in enumerate(requests):
            yield number, [self._complete(request, request.first + i) for i in range(request.num_completions)]

    def _complete(self, request: Request, index: int) -> Completion:
        ids = tuple(self.script(request, index))[: request.limit]
        stopped = bool(ids) and ids[-1] in request.sampling.stop_ids
        return Completion(ids, (0.0,) * len(ids), "stop" if stopped else "length", self.version)

    def load_weights(self, policy: Any, version: int) -> None:
        self.version = version

    def close(self) -> None:
        """There is nothing to release."""
