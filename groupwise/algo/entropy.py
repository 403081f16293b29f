"""The adaptive coefficient of the entropy bonus."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class AdaptiveEntropy:
    """An entropy coefficient that rises while the entropy is below its target (Skywork-OR1, 2505.22312).

    c <- c + delta while H <= target, else c - delta, within [lowest, highest]; the bonus acts only while H <= target.
    """

    value: float = 0.0
    target: float = 0.2
    delta: float = 0.005
    lowest: float = 0.0
    highest: float = 1.0
    is_active: bool = False

    @property
    def coefficient(self) -> float:
        """What to pass to `policy_loss` as `entropy_coef`."""
        return self.value if self.is_active else 0.0

    def update(self, entropy: float) -> AdaptiveEntropy:
        """The controller after an optimizer step that measured this mean token entropy (nats)."""
        moved = self.value + (self.delta if entropy <= self.target else -self.delta)
        bounded = min(max(moved, self.lowest), self.highest)
        return replace(self, value=bounded, is_active=entropy <= self.target)
