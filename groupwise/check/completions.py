"""Checks of the completions of the untrained model, independent of the rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding
from groupwise.check.probes import AFTER_WORDS, EMPTY, GOLD
from groupwise.policy.bounds import context_length
from groupwise.types import Completion

CUT_WARN = 0.5
"""Share of completions cut off at max_completion_length. From half on, most scored completions have no end and, where
an answer comes last, no answer."""
SIGNAL_ENOUGH = 0.5
"""Share of groups with signal from which on cut completions teach enough to go on with."""
EMPTY_WARN = 0.25
"""Share of completions without text: a policy that ends at once explores nothing."""


def completions_cut(evidence: Evidence) -> list[Finding]:
    """`max_completion_length` cuts answers off, or `max_turn_length` turns. It fails where no group has signal, though
    something is rewarded, unless the answers are so short that more room would be filled with talk."""
    cut = [c for group in evidence.sampled.groups for c in group.completions if c.stop_reason == "length"]
    share = len(cut) / evidence.sampled.num_completions
    if share < CUT_WARN:
        return []
    key = _limit_that_cuts(evidence, cut)
    limit: int = getattr(evidence.run.config, key)
    where = f"at {key} {limit}" if key == "max_completion_length" else f"in their last turn, at {key} {limit}"
    what = f"{share:.0%} of the completions are cut off {where}"
    more = f"{key}: {_more(evidence, limit)}"
    longest = _longest_of_short_answers(evidence, limit)
    if longest is not None and evidence.sampled.signal_share < SIGNAL_ENOUGH:
        what += f', though the answers are short: the longest is "{longest}". More tokens would be filled with talk.'
        remedy = f"Leave {key}; have the prompt ask for the answer alone, with an example or two."
        return [Finding("completions_cut", "warn", what, remedy)]
    if evidence.sampled.signal_share == 0 and evidence.can_differ:
        return [Finding("completions_cut", "fail", f"{what}, and no group has signal.", f"Set {more}.")]
    if evidence.sampled.signal_share < SIGNAL_ENOUGH:
        return [Finding("completions_cut", "warn", f"{what}.", f"Set {more}.")]
    what += "; they are rewarded differently all the same, so training can learn to end."
    remedy = f"Leave it where the reward prefers short answers; elsewhere set {more}."
    return [Finding("completions_cut", "note", what, remedy)]


def _longest_of_short_answers(evidence: Evidence, limit: int) -> str | None:
    """The longest answer where all have room in the limit, and are labels or have to stand alone; else None."""
    if not evidence.labels and not _has_to_stand_alone(evidence):
        return None
    encode = evidence.run.policy.tokenizer.encode
    lengths = {text: len(encode(text, add_special_tokens=False)) for text in sorted(set(evidence.answers))}
    longest = max(lengths, key=lambda text: lengths[text])
    return longest if lengths[longest] < limit else None  # an end token has to fit too


def _has_to_stand_alone(evidence: Evidence) -> bool:
    """Whether the right answer is rewarded, and not after other words: a chain of thought would earn nothing."""
    rows = [(each.best(GOLD), each.best(AFTER_WORDS), each.best(EMPTY)) for each in evidence.probed]
    known = [(alone, after, empty) for alone, after, empty in rows if None not in (alone, after, empty)]
    return bool(known) and all(alone > empty >= after for alone, after, empty in known)  # type: ignore[operator]


def _limit_that_cuts(evidence: Evidence, cut: Sequence[Completion]) -> str:
    """The key of the limit that most of these were cut off at."""
    limit = evidence.run.config.max_turn_length
    by_turn = [bool(c.turns) and c.turns[-1].end - c.turns[-1].start == limit for c in cut]
    return "max_turn_length" if 2 * sum(by_turn) > len(cut) else "max_completion_length"


def _more(evidence: Evidence, limit: int) -> int:
    """Four times the limit, or what the context has room for."""
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
