"""The report of a run as one self-contained HTML page: it opens from a disk, in a mail, without a network."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from groupwise.diagnose.compute import CAUSES, ComputeUse
from groupwise.diagnose.doctor import Examination, where
from groupwise.report.about import About, flat, formulas, in_words
from groupwise.report.held_out import HeldOut
from groupwise.report.history import PARTS, evaluation_rows, in_short
from groupwise.report.render import cut, environment
from groupwise.report.samples import Excerpt
from groupwise.runs.progress import prompt_text
from groupwise.runs.records import CompletionRecord
from groupwise.runs.series import Record, evaluation_seconds, total
from groupwise.runs.text import duration, number
from groupwise.runs.transcript import transcript_of_record

MAX_EVENTS = 200

Picture = tuple[str, bytes, bytes]
"""Words for who cannot see it, the light PNG, the dark PNG."""


def page(
    about: About,
    examination: Examination,
    events: Sequence[Record],
    pictures: Sequence[Picture],
    pairs: Sequence[tuple[Excerpt, Excerpt | None]],
    footer: str,
    ending: str = "",
    held_out: Sequence[HeldOut] = (),
) -> str:
    """The page; `ending` is what ended the run early, which stands at its top, as does what the
    doctor has found."""
    records, compute = examination.records, examination.compute
    return _PAGES.get_template("report/page.html").render(
        kind="report",
        name=about.run_name,
        ending=ending,
        held_out=held_out,
        verdict=" ".join(examination.progress) or _nothing_yet(records),
        findings=examination.found,
        compute=compute,
        causes=_by_cause(compute),
        tiles=in_short(records),
        about=_about(about, records),
        details=_details(about),
        pictures=pictures,
        pairs=pairs,
        has_step_rewards=about.has_step_rewards,
        times=_times(records),
        evaluated=evaluation_seconds(records),
        events=[_event(event) for event in events[-MAX_EVENTS:]],
        num_events=len(events),
        footer=footer,
    )


def _nothing_yet(records: Sequence[Record]) -> str:
    return "One step has finished: too few to see whether the model learns." if records else "No step has finished yet."


def _about(about: About, records: Sequence[Record]) -> list[tuple[str, str]]:
    rows = [
        ("model", about.model),
        ("trained", about.parameters),
        ("data", about.data),
        ("environment", about.environment),
        ("rewards", ", ".join(about.rewards)),
        ("algorithm", about.algorithm),
        *formulas(about),
        ("a step", about.batch),
        *((f"held out, {which}", f"{first} → {last}") for which, first, last in evaluation_rows(records)),
    ]
    return [(label, value) for label, value in rows if value]


def _details(about: About) -> list[tuple[str, list[tuple[str, str]]]]:
    """Title of a table that opens on a click, and its rows."""
    details = (
        ("All settings", about.recipe),
        ("The objective, every axis", about.objective),
        ("Versions and machine", about.machine),
    )
    return [(title, [(k, in_words(v)) for k, v in flat(settings)]) for title, settings in details if settings]


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _facts(completion: CompletionRecord) -> str:
    turns = completion.get("turns") or [{"start": 0, "end": len(completion["ids"])}]
    facts = [f"{sum(turn['end'] - turn['start'] for turn in turns)} tokens"]
    if completion.get("turns"):
        facts.append(f"{len(turns)} turn{'s' if len(turns) > 1 else ''}")
    if completion["stop_reason"] in ("length", "turns"):
        facts.append("cut off")
    if completion["advantage"] is not None:
        facts.append(f"advantage {number(completion['advantage'])}")
    if len(completion["rewards"]) > 1:
        facts += [f"{name} {number(value)}" for name, value in completion["rewards"].items()]
    return ", ".join(facts)


def _visible(text: str) -> str:
    """Control characters and invisible ones replaced."""
    return "".join(c if c.isprintable() or c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _times(records: Sequence[Record]) -> list[tuple[str, float, float]]:
    """Part of a step, its seconds in the run and its percentage; empty where no times are recorded."""
    seconds = {part: total(records, f"time/{part}") for part in PARTS}
    whole = sum(seconds.values())
    return [(part, value, 100 * value / whole) for part, value in seconds.items()] if whole else []


def _by_cause(compute: ComputeUse) -> list[tuple[str, int, float]]:
    """What became of the tokens that were read, how many, and their percentage."""
    return [(cause, compute.num_by_cause.get(cause, 0), 100 * compute.share_of(cause)) for cause in CAUSES]


def _event(event: Record) -> tuple[str, str, str, str]:
    """The cells of its row."""
    rest = {k: v for k, v in event.items() if k not in ("schema_version", "time", "kind", "step", "closing")}
    words = str(rest.pop("message", ""))
    details = " ".join([words, *(f"{key}: {in_words(value)}" for key, value in rest.items())]).strip()
    step = "" if event.get("step") is None else str(event["step"])
    time = str(event.get("time", "")).replace("T", " ").removesuffix("+00:00")
    return time, step, str(event.get("kind")), cut(details)


_PAGES = environment(
    _visible,
    number=number,
    duration=duration,
    facts=_facts,
    inline=_inline,
    prompt_text=prompt_text,
    transcript=transcript_of_record,
    where=where,
)
