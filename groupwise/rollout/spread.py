"""An engine of several ranks: each samples its share of the completions under its own copy of the weights.

Randomness belongs to the completion, so the number of ranks does not change which tokens are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from groupwise.rollout.engine import Capabilities, Engine
from groupwise.types import Completion, Request
from groupwise.world import World, stretch

SAMPLE, LOAD = "sample", "load weights"
"""The orders that rank 0 gives."""

Decode = Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class Sampled:
    """What one rank has sampled of a list of requests, or the error that kept it from it."""

    parts: tuple[tuple[int, int, list[Completion]], ...] = ()
    """(request number, number of the first completion, the completions)."""
    error: Exception | None = None


class SpreadEngine:
    """The engine of rank 0: it has every rank, its own among them, sample a share."""

    def __init__(self, engine: Engine, world: World) -> None:
        self.engine, self.world = engine, world
        own = engine.capabilities
        self.capabilities = Capabilities(f"{own.name}, on {world.size} ranks", own.keeps_logprobs)

    def generate(self, requests: Sequence[Request]) -> Iterator[tuple[int, list[Completion]]]:
        with self.world.lockstep("sampling"):
            self.world.order(SAMPLE, [replace(request, decode=None) for request in requests])
            found = self.world.gather(sample_share(self.engine, requests, self.world), "the sampled completions")
        for sampled in found:
            if sampled.error is not None:
                raise sampled.error
        parts = sorted(part[:2] for sampled in found for part in sampled.parts)
        completions = {part[:2]: part[2] for sampled in found for part in sampled.parts}
        for number in range(len(requests)):
            yield number, [c for part in parts if part[0] == number for c in completions[part]]

    def load_weights(self, policy: Any, version: int) -> None:
        self.world.order(LOAD, version)
        self.engine.load_weights(policy, version)

    def close(self) -> None:
        """Release the buffers of this rank; the others release theirs when their call ends."""
        self.engine.close()


def own_engine(engine: Engine) -> Engine:
    """The engine of this rank alone."""
    return engine.engine if isinstance(engine, SpreadEngine) else engine


def sample_share(engine: Engine, requests: Sequence[Request], world: World) -> Sampled:
    """What this rank samples of `requests`; its error is a value, as every rank has to answer."""
    pieces = cut(requests, world.rank, world.size)
    try:
        answers = engine.generate([piece for _, piece in pieces])
        return Sampled(tuple((pieces[i][0], pieces[i][1].first, completions) for i, completions in answers))
    except Exception as error:
        return Sampled(error=error)


def cut(requests: Sequence[Request], rank: int, size: int) -> list[tuple[int, Request]]:
    """(number, request) for the share of one rank: neighbouring completions, equally many a rank.

    A group is cut between two ranks where it has to be; its prompt is then computed on both.
    """
    mine = stretch(sum(request.num_completions for request in requests), rank, size)
    pieces, start = [], 0
    for number, request in enumerate(requests):
        first, last = max(mine.start, start), min(mine.stop, start + request.num_completions)
        if first < last:
            place = request.first + first - start
            pieces.append((number, replace(request, num_completions=last - first, first=place)))
        start += request.num_completions
    return pieces


def with_decode(requests: Sequence[Request], decode: Decode) -> list[Request]:
    """The requests of an order, with the function that did not travel."""
    return [replace(request, decode=decode) for request in requests]
