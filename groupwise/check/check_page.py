"""The pre-flight check as one self-contained HTML page, in the style of the report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from groupwise import __version__
from groupwise.check import wording as words
from groupwise.check.evidence import Evidence
from groupwise.check.finding import Finding, worst_first
from groupwise.check.probes import probe_rows
from groupwise.check.prompts import ShownPrompt
from groupwise.check.result import Result
from groupwise.check.reward_stats import Judgement, ranked
from groupwise.report.page import stylesheet
from groupwise.runs import disk
from groupwise.runs.text import number

NUM_ENDS = 3
"""Completions shown from each end, of every reward."""
MAX_TEXT = 6000
"""Characters of a completion."""
SPREAD_PIXELS = 24


def write_page(result: Result, path: Path) -> None:
    """Write the page; its folder is there."""
    disk.replace(path, page(result).encode("utf-8", "replace"))


def page(result: Result) -> str:
    template = Template(files("groupwise.check").joinpath("check_page.html").read_text(encoding="utf-8"))
    written = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    change = result.first_change
    return template.substitute(
        style=stylesheet(),
        title=_html(f"{result.run_name} - groupwise check"),
        name=_html(result.run_name),
        verdict=_html(result.verdict),
        change="" if change is None else f'<div class="note"><p><b>First change:</b> {_html(change)}</p></div>',
        findings="".join(map(_finding, worst_first(result.findings))) or '<p class="muted">None.</p>',
        about=_table((), [[_html(label), _html(value)] for label, value in result.about]),
        rest="".join(f"<h2>{title}</h2>{body}" for title, body in _sections(result)),
        footer=_html(f"Written by groupwise {__version__} on {written}. No weight was changed."),
    )


def _sections(result: Result) -> Iterable[tuple[str, str]]:
    """Title and content of what was measured."""
    if result.lengths is not None:
        shown = "".join(_prompt(prompt, result.special_tokens) for prompt in result.prompts)
        yield "Prompts", _line(words.lengths_line(result.lengths)) + shown
    evidence = result.evidence
    if evidence is None:
        return
    yield "Rewards on the untrained model", _card(_line(words.sampled_line(evidence)) + _rewards(evidence))
    yield "Groups with signal", _card(_line(words.signal_line(evidence)) + _signal(evidence))
    yield "Made-up completions", _card(_probes(evidence))
    yield "Liked best and least", "".join(_ends(evidence, name) for name in _names(evidence))
    if result.cost is not None:
        yield "Cost", _card(_table((), [[_html(label), _html(value)] for label, value in words.cost_rows(result.cost)]))


def _finding(finding: Finding) -> str:
    style = "note-level" if finding.level == "note" else finding.level
    return (
        f'<div class="card finding {style}"><b>{finding.level}</b> <span class="muted">{_html(finding.name)}</span>'
        f"<p>{_html(finding.what)}</p><p><b>{_html(finding.remedy)}</b></p></div>"
    )


def _prompt(prompt: ShownPrompt, special: Sequence[str]) -> str:
    text = _html(prompt.text)
    if special:
        tokens = "|".join(sorted((re.escape(_html(token)) for token in special), key=len, reverse=True))
        text = re.sub(tokens, lambda found: f'<span class="special">{found[0]}</span>', text)
    return f'<div class="card finding"><h3>{_html(words.prompt_line(prompt))}</h3><pre>{text}</pre></div>'


def _rewards(evidence: Evidence) -> str:
    rows = []
    for name, cells, bins in words.reward_rows(evidence):
        row = [_html(name), *map(_html, cells)]
        row.insert(words.SPREAD, _bars(bins))
        rows.append(row)
    return _table(words.REWARD_COLUMNS, rows) + "".join(map(_line, words.agreement_lines(evidence.agreements)))


def _bars(bins: Sequence[int]) -> str:
    tallest = max(bins, default=0) or 1
    bars = "".join(f'<i style="height:{SPREAD_PIXELS * count / tallest:.0f}px" title="{count}"></i>' for count in bins)
    return f'<span class="spread">{bars}</span>'


def _signal(evidence: Evidence) -> str:
    cells = words.signal_cells(evidence)
    return _table(("num_generations", *(size for size, _ in cells)), [["at most", *(share for _, share in cells)]])


def _probes(evidence: Evidence) -> str:
    names = _names(evidence)
    rows = []
    for row in probe_rows(evidence.probed):
        rewards = [row.total if name is None else row.rewards[name] for name in names]
        example = f"<details><summary>{_html(row.kind)}</summary><pre>{_html(row.example) or '(empty)'}</pre></details>"
        rows.append([example, *(number(reward) for reward in rewards)])
    means = {scores.name: scores.mean for scores in evidence.functions}
    sampled = [evidence.total.mean if name is None else means[name] for name in names]
    rows.append(["sampled, mean", *(number(mean) for mean in sampled)])
    return _table(("completion", *(_title(name) for name in names)), rows)


def _names(evidence: Evidence) -> list[str | None]:
    """Reward functions; None, for the sum, before several."""
    names: list[str | None] = [scores.name for scores in evidence.functions]
    return [None, *names] if len(names) > 1 else names


def _title(name: str | None) -> str:
    return "total" if name is None else name


def _ends(evidence: Evidence, name: str | None) -> str:
    scored = ranked(evidence.sampled.groups, name)
    best, least = scored[:NUM_ENDS], scored[NUM_ENDS:][-NUM_ENDS:]
    shown = "".join(_completion("best", each) for each in best) + "".join(_completion("worst", each) for each in least)
    return f'<div class="card finding"><h3>{_html(_title(name))}</h3>{shown or "Nothing was scored."}</div>'


def _completion(which: str, judgement: Judgement) -> str:
    facts = [f"problem {judgement.problem}", f"{len(judgement.completion.token_ids)} tokens"]
    if judgement.completion.is_truncated:
        facts.append("cut off")
    if len(judgement.rewards) > 1:
        facts += [f"{name} {number(value)}" for name, value in judgement.rewards.items()]
    text = judgement.completion.text
    text = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"
    return (
        f'<div class="completion {which}"><div><b>reward {number(judgement.reward)}</b>'
        f'<span class="muted">{_html(", ".join(facts))}</span></div><pre>{_html(text) or "(empty)"}</pre></div>'
    )


def _card(content: str) -> str:
    return f'<div class="card">{content}</div>'


def _line(text: str) -> str:
    return f"<p>{_html(text)}</p>"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML; with a head all but the first are numbers."""
    style = ' class="number"' if head else ""
    titles = "".join(f"<th{style if i else ''}>{_html(title)}</th>" for i, title in enumerate(head))
    body = "".join(
        "<tr>" + "".join(f"<td{style if i else ''}>{cell}</td>" for i, cell in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table>{f"<tr>{titles}</tr>" if head else ""}{body}</table></div>'


def _html(text: str) -> str:
    return escape(words.visible(text))
