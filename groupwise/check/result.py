"""Result of the pre-flight check: findings, samples and cost, for the screen and the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from groupwise.check.cost import Cost
from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding, has_passed, worst_first
from groupwise.check.prompts import Lengths, ShownPrompt


@dataclass(frozen=True)
class Result:
    """What was looked at and what was found. A check that had to stop early has the later parts as None."""

    run_name: str
    model: str
    about: Sequence[tuple[str, str]]
    """Label and value, in a few lines."""
    findings: Sequence[Finding]
    num_checks: int
    """Checks that were made, those that found nothing included."""
    seconds: float
    prompts: Sequence[ShownPrompt] = ()
    special_tokens: Sequence[str] = ()
    lengths: Lengths | None = None
    evidence: Evidence | None = None
    cost: Cost | None = None

    @property
    def has_passed(self) -> bool:
        return has_passed(self.findings)

    @property
    def first_change(self) -> str | None:
        """The one thing to change first; None where nothing has to be."""
        ordered = [finding for finding in worst_first(self.findings) if finding.level != "note"]
        return ordered[0].remedy if ordered else None

    @property
    def verdict(self) -> str:
        counts = [
            f"{num} {word}{'s' if num != 1 else ''}"
            for word, level in (("failure", "fail"), ("warning", "warn"), ("note", "note"))
            if (num := sum(finding.level == level for finding in self.findings))
        ]
        found = ", ".join(counts) or "nothing found"
        return f"{'PASS' if self.has_passed else 'FAIL'}: {found} in {self.num_checks} checks, {self.seconds:.0f} s."
