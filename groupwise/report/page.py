"""The report as one HTML page: nothing is fetched, so it opens from a disk, in a mail, without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from string import Template
from typing import Any

from groupwise.report.about import About, formulas
from groupwise.report.history import PARTS, Record, ended_by_guard, evaluation_rows, in_short, reward_change, total
from groupwise.report.samples import Excerpt
from groupwise.runs.progress import prompt_text
from groupwise.runs.records import CompletionRecord
from groupwise.runs.text import duration, number

MAX_EVENTS = 200
MAX_TEXT = 6000
"""Characters of a prompt or completion; the run folder has the rest."""

READING = (
    "<p><b>Read the reward.</b> GRPO's loss is no measure of progress: advantages are centred in every group, so with "
    "one update a rollout the policy term of the loss is 0 by construction. What remains is &beta; &times; KL: the "
    "loss <b>starts at 0 and rises</b> as the policy moves away from the reference, which is what learning looks like. "
    "Without a KL term it stays near 0.</p>"
)

Picture = tuple[str, bytes, bytes]
"""Words for who cannot see it, the light PNG, the dark PNG."""


def page(
    about: About,
    records: Sequence[Record],
    events: Sequence[Record],
    pictures: Sequence[Picture],
    pairs: Sequence[tuple[Excerpt, Excerpt | None]],
    footer: str,
) -> str:
    change = reward_change(records)
    template = Template(files("groupwise.report").joinpath("page.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=stylesheet(),
        title=_html(f"{about.run_name} - groupwise report"),
        name=_html(about.run_name),
        verdict=_html(f"{ended_by_guard(events)} {change.verdict if change else _nothing_yet(records)}".strip()),
        tiles="".join(_tile(label, value) for label, value in in_short(records)),
        reading=READING,
        about=_about(about, records),
        curves=_curves(pictures),
        samples=_pairs(pairs),
        time=_time(records),
        events=_events(events),
        footer=_html(footer),
    )


def stylesheet() -> str:
    """How every page of groupwise looks, light and dark."""
    return files("groupwise.report").joinpath("page.css").read_text(encoding="utf-8")


def _nothing_yet(records: Sequence[Record]) -> str:
    return "One step has finished: too few to see whether the model learns." if records else "No step has finished yet."


def _tile(label: str, value: str) -> str:
    return f'<div class="card tile"><b>{_html(value)}</b><span>{_html(label)}</span></div>'


def _about(about: About, records: Sequence[Record]) -> str:
    rows = [
        ("model", about.model),
        ("trained", about.parameters),
        ("data", about.data),
        ("rewards", ", ".join(about.rewards)),
        ("algorithm", about.algorithm),
        *formulas(about.objective),
        ("a step", about.batch),
        *((f"held out, {which}", f"{first} → {last}") for which, first, last in evaluation_rows(records)),
    ]
    shown = _table((label, _html(value)) for label, value in rows if value)
    return shown + "".join(
        f"<details><summary>{title}</summary>{_settings(settings)}</details>"
        for title, settings in (
            ("All settings", about.recipe),
            ("The objective, every axis", about.objective),
            ("Versions and machine", about.machine),
        )
        if settings
    )


def _table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns; the second is HTML already."""
    body = "".join(f"<tr><th>{_html(label)}</th><td>{value}</td></tr>" for label, value in rows)
    return f'<table class="about">{body}</table>'


def _settings(settings: Mapping[str, Any]) -> str:
    return _table((key, f"<code>{_html(_plain(value))}</code>") for key, value in _flat(settings))


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _curves(pictures: Sequence[Picture]) -> str:
    if not pictures:
        return '<p class="muted">Nothing has been measured yet.</p>'
    shown = (_picture(*picture, is_wide=i == 0) for i, picture in enumerate(pictures))
    return '<div class="grid">' + "".join(shown) + "</div>"


def _picture(words: str, light: bytes, dark: bytes, *, is_wide: bool) -> str:
    source = f'<source srcset="{_inline(dark)}" media="(prefers-color-scheme: dark)">'
    image = f'<img src="{_inline(light)}" alt="{_html(words)}">'
    return f'<figure class="card{" wide" if is_wide else ""}"><picture>{source}{image}</picture></figure>'


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _pairs(pairs: Sequence[tuple[Excerpt, Excerpt | None]]) -> str:
    if not pairs:
        return '<p class="muted">No scored completions are recorded.</p>'
    return "".join(f'<div class="pair">{_group(early)}{_group(late) if late else ""}</div>' for early, late in pairs)


def _group(shown: Excerpt) -> str:
    prompt = _html(_cut(prompt_text(shown.group["prompt"])))
    return (
        f'<div class="card"><h3>Step {shown.step} <span class="muted">problem {shown.group["problem"]}</span></h3>'
        f'<details class="prompt"><summary class="muted">prompt</summary><pre>{prompt}</pre></details>'
        f"{_completion('best', shown.best)}{_completion('worst', shown.worst)}</div>"
    )


def _completion(which: str, completion: CompletionRecord) -> str:
    facts = [f"{len(completion['ids'])} tokens"]
    if completion["stop_reason"] == "length":
        facts.append("cut off")
    if completion["advantage"] is not None:
        facts.append(f"advantage {number(completion['advantage'])}")
    if len(completion["rewards"]) > 1:
        facts += [f"{name} {number(value)}" for name, value in completion["rewards"].items()]
    text = _html(_cut(completion["text"])) or "(empty)"
    return (
        f'<div class="completion {which}"><div><b>{which}: reward {_html(number(completion["reward"]))}</b>'
        f'<span class="muted">{_html(", ".join(facts))}</span></div><pre>{text}</pre></div>'
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"


def _html(text: str) -> str:
    """`text` as a browser shows it: markup escaped, control characters and invisible ones replaced."""
    return escape("".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text))


def _time(records: Sequence[Record]) -> str:
    seconds = {part: total(records, f"time/{part}") for part in PARTS}
    whole = sum(seconds.values())
    if not whole:
        return '<p class="muted">No times are recorded.</p>'
    colors = [f"var(--c{i})" for i in range(len(PARTS))]
    bar = "".join(
        f'<i style="width:{100 * value / whole:.2f}%;background:{color}"></i>'
        for value, color in zip(seconds.values(), colors, strict=True)
    )
    rows = [
        f'<tr><td><span class="key" style="background:{color}"></span>{part}</td>'
        f'<td class="number">{duration(value)}</td><td class="number">{100 * value / whole:.1f} %</td></tr>'
        for (part, value), color in zip(seconds.items(), colors, strict=True)
    ]
    evaluated = total(records, "time/eval")
    if evaluated:
        rows.append(
            f'<tr><td>evaluation, beside the steps</td><td class="number">{duration(evaluated)}</td><td></td></tr>'
        )
    return f'<div class="bar">{bar}</div><table>{"".join(rows)}</table>'


def _events(events: Sequence[Record]) -> str:
    if not events:
        return '<p class="muted">None.</p>'
    rows = "".join(_event(event) for event in events[-MAX_EVENTS:])
    note = f"<p class='muted'>The latest {MAX_EVENTS} of {len(events)}.</p>" if len(events) > MAX_EVENTS else ""
    return f"{note}<table><tr><th>time</th><th>step</th><th>what</th><th></th></tr>{rows}</table>"


def _event(event: Record) -> str:
    rest = {k: v for k, v in event.items() if k not in ("schema_version", "time", "kind", "step")}
    words = str(rest.pop("message", ""))
    details = " ".join([words, *(f"{key}: {_plain(value)}" for key, value in rest.items())]).strip()
    step = "" if event.get("step") is None else str(event["step"])
    cells = (
        str(event.get("time", "")).replace("T", " ").removesuffix("+00:00"),
        step,
        str(event.get("kind")),
        _cut(details),
    )
    return "<tr>" + "".join(f"<td>{_html(cell)}</td>" for cell in cells) + "</tr>"
