"""The pre-flight check as one self-contained HTML page, in the style of the report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from groupwise import __version__
from groupwise.check import wording as words
from groupwise.check.evidence import Evidence
from groupwise.check.finding import worst_first
from groupwise.check.probes import probe_rows
from groupwise.check.prompts import ShownPrompt
from groupwise.check.result import Result
from groupwise.check.reward_stats import Judgement, ranked
from groupwise.report.render import environment
from groupwise.runs import disk
from groupwise.runs.text import number
from groupwise.runs.transcript import transcript_of

NUM_ENDS = 3
"""Completions shown from each end, of every reward."""
SPREAD_PIXELS = 24


def write_page(result: Result, path: Path) -> None:
    """Write the page; its folder is there."""
    disk.replace(path, page(result).encode("utf-8", "replace"))


def page(result: Result) -> str:
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    evidence, lengths = result.evidence, result.lengths
    return _PAGES.get_template("check/check_page.html").render(
        kind="check",
        name=result.run_name,
        verdict=result.verdict,
        change=result.first_change,
        run=None if result.cost is None else words.run_line(result.cost),
        findings=worst_first(result.findings),
        about=result.about,
        lengths=None if lengths is None else words.lengths_line(lengths),
        prompts=[_prompt(prompt, result.special_tokens) for prompt in result.prompts],
        measured=None if evidence is None else _measured(evidence),
        cost=None if evidence is None or result.cost is None else words.cost_rows(result.cost),
        footer=f"Written by groupwise {__version__} on {written}. No weight was changed.",
    )


def _prompt(prompt: ShownPrompt, special: Sequence[str]) -> tuple[str, list[str]]:
    """Its line, and its text in parts: every second one is a special token."""
    tokens = "|".join(sorted(map(re.escape, special), key=len, reverse=True))
    parts = re.split(f"({tokens})", prompt.text) if tokens else [prompt.text]
    return words.prompt_line(prompt), parts


def _measured(evidence: Evidence) -> dict[str, Any]:
    """What the page shows of the untrained model's completions."""
    names, cells = _names(evidence), words.signal_cells(evidence)
    return {
        "columns": words.REWARD_COLUMNS,
        "sampled": words.sampled_line(evidence),
        "turns": words.turn_rows(evidence),
        "rewards": _rewards(evidence),
        "agreements": words.agreement_lines(evidence.agreements),
        "signal": words.signal_line(evidence),
        "sizes": [size for size, _ in cells],
        "shares": [share for _, share in cells],
        "names": [_title(name) for name in names],
        "probes": _probes(evidence),
        "means": _means(evidence),
        "ends": [(_title(name), *_ends(evidence, name)) for name in names],
    }


def _rewards(evidence: Evidence) -> list[tuple[str, list[str], list[tuple[float, int]], list[str]]]:
    """Name of a reward, the cells before its histogram, bars of that (pixels and count), and the cells after it."""
    before = words.SPREAD - 1  # the name is the first column
    return [(name, cells[:before], _bars(bins), cells[before:]) for name, cells, bins in words.reward_rows(evidence)]


def _bars(bins: Sequence[int]) -> list[tuple[float, int]]:
    tallest = max(bins, default=0) or 1
    return [(SPREAD_PIXELS * count / tallest, count) for count in bins]


def _probes(evidence: Evidence) -> list[tuple[str, str, list[str]]]:
    """Kind of a made-up completion, an example, and its rewards."""
    names = _names(evidence)
    return [
        (row.kind, row.example, [number(row.total if name is None else row.rewards[name]) for name in names])
        for row in probe_rows(evidence.probed)
    ]


def _means(evidence: Evidence) -> list[str]:
    means = {scores.name: scores.mean for scores in evidence.functions}
    return [number(evidence.total.mean if name is None else means[name]) for name in _names(evidence)]


def _names(evidence: Evidence) -> list[str | None]:
    """Reward functions; None, for the sum, before several."""
    names: list[str | None] = [scores.name for scores in evidence.functions]
    return [None, *names] if len(names) > 1 else names


def _title(name: str | None) -> str:
    return "total" if name is None else name


def _ends(evidence: Evidence, name: str | None) -> tuple[list[Judgement], list[Judgement]]:
    """The completions that a reward likes best, and least."""
    scored = ranked(evidence.sampled.groups, name)
    return scored[:NUM_ENDS], scored[NUM_ENDS:][-NUM_ENDS:]


def _facts(judgement: Judgement) -> str:
    facts = [judgement.place, f"{judgement.completion.num_sampled} tokens"]
    if judgement.completion.is_truncated:
        facts.append("cut off")
    if len(judgement.rewards) > 1:
        facts += [f"{name} {number(value)}" for name, value in judgement.rewards.items()]
    return ", ".join(facts)


_PAGES = environment(words.visible, number=number, facts=_facts, transcript=transcript_of)
