"""What the page asks for, each as plain data: no view holds more than it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from groupwise.diagnose.trend import reward_change
from groupwise.errors import RunError
from groupwise.redact import redact
from groupwise.report.about import about
from groupwise.report.held_out import confusions
from groupwise.runs import shape
from groupwise.runs.metrics import find, held_out_rewards
from groupwise.watch import recipes, scan, step_file, token_values
from groupwise.watch.findings import Findings
from groupwise.watch.watched_run import WatchedRun

MAX_POINTS = 600
"""Of a curve: more than a screen has columns to tell apart."""

MAX_GROUPS = 500
MAX_SHOWN = 64
"""Completions in one answer."""

MAX_EVENTS = 300
MAX_TEXT = 100_000
"""Characters of a completion in one answer; the run folder has the rest."""

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PageRequest:
    """A request of the page."""

    runs: Sequence[WatchedRun]
    findings: Sequence[Findings]
    path: Mapping[str, Any]
    query: Mapping[str, str]

    @property
    def index(self) -> int:
        index = int(self.path["run"])
        if index >= len(self.runs):
            raise LookupError("There is no such run.")
        return index

    @property
    def run(self) -> WatchedRun:
        return self.runs[self.index]

    def number(self, name: str, default: int, least: int, most: int) -> int:
        """A whole number of the query within bounds; `LookupError` where it is none."""
        text = self.query.get(name) or str(default)
        if not text.isdecimal() or len(text) > 15:
            raise LookupError(f"{name} is no whole number.")
        return max(least, min(most, int(text)))


def runs(asked: PageRequest) -> list[Json]:
    """The names of the runs, in the order of the command; runs of one name by their folders."""
    versions = [run.version() for run in asked.runs]
    return [
        {"name": name, "path": str(run.folder.path), **version}
        for run, name, version in zip(asked.runs, _names(asked.runs), versions, strict=True)
    ]


def run(asked: PageRequest) -> Json:
    """Where a run is: words and numbers of its head, events, findings; which metrics and steps there are."""
    version = asked.run.version()
    findings = asked.findings[asked.index].latest(version)
    with asked.run.looked_at() as found:
        records = found.columns.records()
        change = reward_change(records)
        keys = found.columns.keys()
        return {
            **version,
            "name": found.name,
            "path": str(found.folder.path),
            "num_steps": found.num_steps,
            "seconds_left": found.seconds_left,
            "seconds": sum(record.get("step_time") or 0.0 for record in records),
            "ending": redact(found.ending),
            "damage": found.damage,
            "verdict": change.verdict if change else "",
            "about": _about(found),
            "last": {key: found.columns.last(key) for key in keys},
            "keys": {key: _metric(key) for key in keys},
            "held_out": [{"label": label, "key": key} for label, key in held_out_rewards(keys)],
            "functions": [key[len("rewards/") : -len("/mean")] for key in keys if _is_function_mean(key)],
            "recorded_steps": {kind: _ends(steps) for kind, steps in found.steps.items()},
            "events": found.events[-MAX_EVENTS:],
            "num_events": len(found.events),
            **findings,
        }


def curves(asked: PageRequest) -> Json:
    """Curves of some keys between two steps."""
    points = asked.number("points", MAX_POINTS, 2, MAX_POINTS)
    with asked.run.looked_at() as found:
        first = asked.number("first", 0, 0, 10**12)
        last = asked.number("last", 10**12, 0, 10**12)
        keys = asked.query.get("keys", "").split("\n")
        return {"history": found.version()["history"], **found.columns.curves(keys, first, last, points)}


def step(asked: PageRequest) -> Json:
    """Rows of numbers for the groups of a step, or of the nearest one that is recorded; which ones are beside it."""
    with asked.run.looked_at() as found:
        kind, steps = _kind(asked), found.steps[_kind(asked)]
    if not steps:
        return {"step": None, "groups": [], "before": None, "after": None}
    wanted = int(asked.path["step"])
    place = min(range(len(steps)), key=lambda i: abs(steps[i] - wanted))
    nearest = steps[place]
    kl = token_values.mean_log_ratios(asked.run.folder, nearest) if kind == "completions" else []
    groups = _rows(asked.run, kind, nearest, kl)
    first = asked.number("first", 0, 0, 10**9)
    return {
        "step": nearest,
        "before": steps[place - 1] if place else None,
        "after": steps[place + 1] if place + 1 < len(steps) else None,
        "num_groups": len(groups),
        "groups": groups[first : first + MAX_GROUPS],
        "confusions": _confusions(asked.run, nearest) if kind == "evaluations" else [],
    }


def group(asked: PageRequest) -> Json:
    """A group with the texts of some of its completions."""
    found = _file(asked).group_at(int(asked.path["at"]))
    if found is None:
        raise LookupError("This group is not there any more.")
    shown = step_file.shown(found, *_slice(asked))
    for completion in shown["completions"]:
        completion["text"] = completion["text"][:MAX_TEXT]
    return shown


def tokens(asked: PageRequest) -> list[Json]:
    """The tokens of some completions of a group."""
    return token_values.tokens_of(_file(asked), asked.run.folder, int(asked.path["at"]), *_slice(asked))


def problem(asked: PageRequest) -> Json:
    """The draws of a problem, the latest first, a part of the run at a time."""
    return _found(scan.draws_of(asked.run.folder, _steps(asked), int(asked.path["problem"])))


def search(asked: PageRequest) -> Json:
    """Completions that fit, a part of the run at a time."""
    query = scan.Query(
        text=asked.query.get("text", ""),
        is_cut_off=asked.query.get("cut_off") == "1",
        order=asked.query.get("order") or "latest",
    )
    return _found(scan.search(asked.run.folder, _steps(asked), query))


def recipe(asked: PageRequest) -> Json:
    """Every setting of a run."""
    with asked.run.looked_at() as found:
        return {"settings": recipes.settings(found.config), "description": found.config.get("description") or []}


def differences(asked: PageRequest) -> Json:
    """What differs between the recipes of the runs."""
    for each in asked.runs:
        each.version()
    return {
        "names": _names(asked.runs),
        "rows": recipes.differences([each.config for each in asked.runs]),
    }


def _names(watched: Sequence[WatchedRun]) -> list[str]:
    names = [run.name for run in watched]
    return [name if names.count(name) == 1 else str(run.folder.path) for run, name in zip(watched, names, strict=True)]


def _about(found: WatchedRun) -> list[tuple[str, str]]:
    words = about(found.config, found.name)
    rows = [
        ("model", words.model),
        ("trained", words.parameters),
        ("data", words.data),
        ("environment", words.environment),
        ("rewards", ", ".join(words.rewards)),
        ("algorithm", words.algorithm),
        ("a step", words.batch),
    ]
    return [(label, value) for label, value in rows if value]


def _is_function_mean(key: str) -> bool:
    return key.startswith("rewards/") and key.endswith("/mean")


def _metric(key: str) -> Json:
    known = find(key)
    return {"unit": known.unit, "definition": known.definition, "healthy": known.healthy} if known else {}


def _ends(steps: Sequence[int]) -> Json:
    return {"first": steps[0], "last": steps[-1], "count": len(steps)} if steps else {"count": 0}


def _kind(asked: PageRequest) -> str:
    kind = str(asked.path["kind"])
    if kind not in step_file.KINDS:
        raise LookupError("There is no such record.")
    return kind


def _file(asked: PageRequest) -> step_file.StepFile:
    try:
        file = step_file.StepFile(asked.run.folder, _kind(asked), int(asked.path["step"]))
    except step_file.OutsideError as error:
        raise LookupError(str(error)) from error
    if not file.path.is_file():
        raise LookupError("This step is not recorded, or not any more.")
    return file


def _rows(run: WatchedRun, kind: str, step: int, kl: Sequence[float | None]) -> list[step_file.Row]:
    try:
        return step_file.rows(step_file.StepFile(run.folder, kind, step).groups(), kl)
    except (OSError, RunError):  # it was there a moment ago
        return []


def _confusions(run: WatchedRun, step: int) -> list[Json]:
    """Which answers were given where which were right, for each evaluation set with few of them."""
    try:
        groups = step_file.StepFile(run.folder, "evaluations", step).groups()
        records: Any = [group for _, group in groups if shape.evaluation(group) is None]
    except (OSError, RunError):
        return []
    return [
        {"set": name, "kind": kind, "given": counts.given, "rows": counts.rows}
        for name, kind, counts in confusions(records)
    ]


def _slice(asked: PageRequest) -> tuple[int, int]:
    return asked.number("first", 0, 0, 10**9), asked.number("count", MAX_SHOWN, 1, MAX_SHOWN)


def _steps(asked: PageRequest) -> list[int]:
    """The steps between `least` and `before`, both included."""
    least, before = asked.number("least", 0, 0, 10**12), asked.number("before", 10**12, 0, 10**12)
    with asked.run.looked_at() as found:
        return [step for step in found.steps["completions"] if least <= step <= before]


def _found(found: scan.Hits) -> Json:
    return {"hits": found.hits, "next": found.next_step, "num_steps": found.num_steps}
