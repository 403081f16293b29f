"""Does a server hold the version that it should? Its log-probs of a few fixed tokens decide; no status code does.

Three rules, each blind where the next one sees. *Near the learner*: another model, or weights from long ago, are whole
nats away. *Moved like the learner*: from one version to the next the answer moves as the learner's log-probs do; this
decides wherever a step moves more than the precisions of both sides are apart. *Moved at all*: a server computes the
same log-probs for the same weights, to the last bit, so an answer that is the one of the version before is one of the
weights before, however small the step was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from groupwise.rollout.served.published import Published

NUM_TOKENS = 32
LARGEST_GAP = 2.0
"""Mean exp |difference| between server and learner. A server in bfloat16 is at 1.13 from a learner in float32 over the
unlikely tokens of the probe, and further away as training goes on; another model is at more than 3."""
FLOAT32_GAP = 1.001
"""Up to here both sides compute in float32."""
WORTH_COMPARING = 4.0
"""The learner's move between two versions decides when it is so many times the distance of both sides."""


@dataclass(frozen=True)
class ProbeAnswer:
    """What one server answered for one version."""

    published: Published
    answer: tuple[float, ...]

    @property
    def gap(self) -> float:
        """Mean over tokens of exp |server's log-prob - learner's|: 1 where both agree."""
        return gap(self.answer, self.published.expected)


def gap(answer: Sequence[float], expected: Sequence[float]) -> float:
    """Mean over tokens of exp |difference|; infinite where there is one that is no number."""
    if len(answer) != len(expected) or not all(map(math.isfinite, answer)):
        return math.inf
    return sum(math.exp(min(abs(a - e), 50.0)) for a, e in zip(answer, expected, strict=True)) / len(expected)


def why_wrong(now: ProbeAnswer, before: ProbeAnswer | None, *, is_repeatable: bool) -> str | None:
    """The reason why a server does not hold what was published, None where it does.

    `before` is the same server's answer for an earlier version; `is_repeatable`, whether it gives one answer for one
    version to the last bit.
    """
    if now.gap > LARGEST_GAP:
        return (
            f"its log-probs of the probe are {now.gap:.3g} from the learner's (mean exp |difference|; up to "
            f"{LARGEST_GAP} is precision): it holds other weights, or another model"
        )
    if before is None or not now.published.differs_from(before.published):
        return None
    which = f"as under version {before.published.version}" if before.published.version >= 0 else "as the base does"
    if is_repeatable and now.answer == before.answer:
        return f"it answers the probe {which}, to the last bit: version {now.published.version} never reached it"
    if _moved(now, before) < 0.5:
        return f"it answers the probe {which}, and the learner has moved on: it is behind"
    return None


def _moved(now: ProbeAnswer, before: ProbeAnswer) -> float:
    """How far the server has followed the learner from one version to the next: 1 all the way, 0 not at all; 1 where
    the step is too small to tell."""
    step = [a - b for a, b in zip(now.published.expected, before.published.expected, strict=True)]
    apart = [a - e for a, e in zip(before.answer, before.published.expected, strict=True)]
    moved = [a - b for a, b in zip(now.answer, before.answer, strict=True)]
    if _norm(step) <= WORTH_COMPARING * _norm(apart) or not _norm(step):
        return 1.0
    return sum(m * s for m, s in zip(moved, step, strict=True)) / _norm(step) ** 2


def _norm(values: Sequence[float]) -> float:
    return math.sqrt(sum(value * value for value in values))


def disagreement(answers: Sequence[tuple[float, ...]]) -> float:
    """The largest difference between two servers' log-probs of one token."""
    return max((max(values) - min(values) for values in zip(*answers, strict=True)), default=0.0)
