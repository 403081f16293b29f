"""Checks of what happens between the turns of the untrained model and its environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding
from groupwise.errors import EnvironmentFailedError, shortened
from groupwise.types import Call, Completion

OUT_OF_TURNS_WARN = 0.5
"""Share of completions cut off after `max_turns`: from half on most of them never come to an end that is worth
something."""
CALLS_FAIL_WARN = 0.5
"""Share of calls that fail: from half on the policy mostly reads error messages."""


def environment_fails(evidence: Evidence) -> list[Finding]:
    """Some completions are unscored because their environment broke down. More than half end the check, see below."""
    completions = _completions(evidence)
    failed = [c for c in completions if c.stop_reason == "failed"]
    if not failed:
        return []
    what = f"The environment of {len(failed)} of {len(completions)} completions failed: these are unscored."
    remedy = "Mend what the warning above names. A reply that the environment cannot read is no failure of its own."
    return [Finding("environment_fails", "warn", what, remedy)]


def mostly_fails(error: EnvironmentFailedError) -> Finding:
    """The finding for environments more than half of which failed: training would end at its first step."""
    remedy = "Mend the environment: step has to answer every reply, an empty one and one of random tokens too."
    return Finding("environment_fails", "fail", str(error), remedy)


def starts_differ(evidence: Evidence) -> list[Finding]:
    """Completions of one group begin in different states, so their rewards do not compare replies alone."""
    groups = evidence.sampled.groups
    num = sum(any(c.turns and c.turns[0].start > 0 for c in group.completions) for group in groups)
    if num == 0:
        return []
    what = f"The environments of {num} of {len(groups)} groups began differently, although they had one seed."
    remedy = "Draw what is random in reset from its seed: random.Random(seed)."
    return [Finding("starts_differ", "warn", what, remedy)]


def out_of_turns(evidence: Evidence) -> list[Finding]:
    """`max_turns` ends most completions."""
    completions, limit = _completions(evidence), evidence.run.config.max_turns
    share = fmean(c.stop_reason == "turns" for c in completions)
    if share < OUT_OF_TURNS_WARN:
        return []
    what = f"{share:.0%} of the completions are cut off after max_turns {limit}, as truncated ones."
    remedy = f"Set max_turns: {2 * limit}, or let the environment end the completion itself, with a reward."
    return [Finding("out_of_turns", "warn", what, remedy)]


def tools_unused(evidence: Evidence) -> list[Finding]:
    """There are tools, and no completion calls one: nothing that training could strengthen."""
    pool = evidence.run.inputs.environment
    assert pool is not None
    names = [schema["function"]["name"] for kind in pool.kinds.values() for schema in kind.schemas]
    if not names or _calls(evidence):
        return []
    what = f"None of {len(_completions(evidence))} completions calls a tool; there is {', '.join(names)}."
    remedy = "Put two worked examples of a call into the prompt: what is never tried cannot be rewarded."
    return [Finding("tools_unused", "warn", what, remedy)]


def calls_fail(evidence: Evidence) -> list[Finding]:
    """Most calls are malformed, or their tool raises."""
    calls = _calls(evidence)
    failed = [call for call in calls if call.error is not None]
    if not calls or len(failed) < CALLS_FAIL_WARN * len(calls):
        return []
    what = f'{len(failed)} of {len(calls)} calls failed, such as: "{shortened(failed[0].error or "", 160)}".'
    remedy = "Show the form of a call in the prompt, by an example; see the transcript for what the model writes."
    return [Finding("calls_fail", "warn", what, remedy)]


def _completions(evidence: Evidence) -> Sequence[Completion]:
    return [c for group in evidence.sampled.groups for c in group.completions]


def _calls(evidence: Evidence) -> Sequence[Call]:
    return [call for c in _completions(evidence) for turn in c.turns for call in turn.calls]


CHECKS: tuple[Callable[[Evidence], list[Finding]], ...] = (
    environment_fails,
    starts_differ,
    tools_unused,
    calls_fail,
    out_of_turns,
)
"""Made only where there is an environment."""
