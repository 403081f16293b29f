"""Finds a run that ends giving every prompt one answer, from its records: it looks like success."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from groupwise.config.guards import BY_NAME, GuardSetting
from groupwise.runs.text import percent

_KEY = "completions/distinct_answers"


def one_answer_setting(config: Mapping[str, Any]) -> GuardSetting:
    """How the guard `one_answer` was set in the run whose `run.json` this is."""
    written = ((config.get("recipe") or {}).get("guards") or {}).get("one_answer")
    return GuardSetting(**written) if isinstance(written, Mapping) else BY_NAME["one_answer"].default


def one_answer(records: Sequence[Mapping[str, Any]], setting: GuardSetting) -> str:
    """A sentence where the guard was beyond its bound to the end of the run; empty where it was not, or is off."""
    measured = [(int(r["step"]), float(r[_KEY])) for r in records if r.get(_KEY) is not None]
    num_last = 0
    while num_last < len(measured) and measured[-1 - num_last][1] < setting.threshold:
        num_last += 1
    if setting.action == "off" or num_last < setting.steps:
        return ""
    since, _ = measured[-num_last]
    return (
        f"From step {since} to the end, the policy gives different prompts one answer: theirs differ "
        f"{percent(measured[-1][1])} as often as the data's own (guard one_answer). A reward that rises with that is "
        f"no success. {BY_NAME['one_answer'].remedy}"
    )
