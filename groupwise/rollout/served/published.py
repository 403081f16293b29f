"""A version of the policy on disk, and who writes it: what the engine knows of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class Published:
    """One version: written once, never changed."""

    version: int
    name: str
    """What servers call it; no other version of any run has it."""
    folder: str
    expected: tuple[float, ...]
    """The learner's log-probs of the tokens of the probe but the first, temperature 1."""
    marks: tuple[int, ...]
    """A checksum of every published tensor, rounded to bfloat16; none for the base that a server was started with."""
    is_base: bool = False
    """Whether an adapter that is 0 still, so that the version is the base itself."""

    def differs_from(self, other: Published) -> bool:
        """Whether so much of it is different in bfloat16 that no computation could give the same log-probs."""
        if not self.marks or not other.marks:
            return True
        changed = sum(mine != theirs for mine, theirs in zip(self.marks, other.marks, strict=True))
        return 2 * changed >= len(self.marks)


class Publisher(Protocol):
    """Writes versions of the policy where servers read them."""

    def publish(self, policy: Any, version: int) -> Published: ...

    def discard(self, published: Published) -> None:
        """Delete its folder: no server reads it again."""
        ...
