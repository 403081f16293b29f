"""Checks of the completions of the untrained model, independent of the rewards."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding
from groupwise.policy.bounds import context_length

CUT_WARN = 0.5
"""Share of completions cut off at max_completion_length. From half on, most scored completions have no end and, where
an answer comes last, no answer."""
SIGNAL_ENOUGH = 0.5
"""Share of groups with signal from which on cut completions teach enough to go on with."""
EMPTY_WARN = 0.25
"""Share of completions without text: a policy that ends at once explores nothing."""


def completions_cut(evidence: Evidence) -> list[Finding]:
    """`max_completion_length` cuts answers off. It fails where no group has signal, though something is rewarded."""
    completions = [c for group in evidence.sampled.groups for c in group.completions]
    share, limit = fmean(c.is_truncated for c in completions), evidence.run.config.max_completion_length
    if share < CUT_WARN:
        return []
    what = f"{share:.0%} of the completions are cut off at max_completion_length {limit}"
    more = f"max_completion_length: {_more(evidence)}"
    if evidence.sampled.signal_share == 0 and evidence.can_differ:
        return [Finding("completions_cut", "fail", f"{what}, and no group has signal.", f"Set {more}.")]
    if evidence.sampled.signal_share < SIGNAL_ENOUGH:
        return [Finding("completions_cut", "warn", f"{what}.", f"Set {more}.")]
    what += "; they are rewarded differently all the same, so training can learn to end."
    remedy = f"Leave it where the reward prefers short answers; elsewhere set {more}."
    return [Finding("completions_cut", "note", what, remedy)]


def _more(evidence: Evidence) -> int:
    """Four times the limit, or what the context has room for."""
    limit = evidence.run.config.max_completion_length
    context = context_length(evidence.run.policy.model.config)
    room = 4 * limit if context is None else context - evidence.run.problems.max_prompt_tokens
    return min(4 * limit, max(room, limit))


def completions_empty(evidence: Evidence) -> list[Finding]:
    """The model often samples an empty completion."""
    texts = [c.text for group in evidence.sampled.groups for c in group.completions]
    share = fmean(not text.strip() for text in texts)
    if share < EMPTY_WARN:
        return []
    what = f"{share:.0%} of the completions are empty: the model takes the end of the prompt for the end of the text."
    remedy = (
        "Give the prompts as messages where the model has a chat template, or end a plain prompt with a cue such as "
        '"Answer:".'
    )
    return [Finding("completions_empty", "warn", what, remedy)]


CHECKS: tuple[Callable[[Evidence], list[Finding]], ...] = (completions_empty, completions_cut)
