"""The protocol between training and sampling.

An engine knows token ids, sampling parameters and seeds; it knows neither text nor rewards. Its schedule and batch
shapes depend only on the requests and its own settings, never on time or free memory: exact resume rests on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from groupwise.types import Completion, Request


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Properties of an engine that a run reads, and its name for the records."""

    name: str
    keeps_logprobs: bool = True
    """Whether the log-probs of sampled tokens are those of the engine's own pass."""
    is_float32: bool = True
    """Whether its log-probs are as exact as the learner's; False where it computes in fewer bits than a learner may."""


class Engine(Protocol):
    """Samples completions for requests under the weights that were loaded last."""

    @property
    def capabilities(self) -> Capabilities: ...

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        """Yields (request number, its completions) as groups finish, in any order.

        Raises `RolloutError` for a request that cannot be served.
        """
        ...

    def load_weights(self, policy: Any, version: int) -> None:
        """Sample from `policy` from now on, stamp completions with `version`, forget every cached prefix."""
        ...

    def close(self) -> None:
        """Release servers, connections and buffers; the next `load_weights` makes the engine usable again."""
        ...


class VersionedEngine(Engine, Protocol):
    """An engine that holds several versions of the policy, so that a collection can go on under an earlier one."""

    def hold(self, version: int) -> None:
        """Keep that version until `release`."""
        ...

    def release(self, version: int) -> None: ...

    def pinned(self, version: int) -> AbstractContextManager[None]:
        """Inside, `generate` of this thread samples from that version."""
        ...
