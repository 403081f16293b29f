"""Reads the groups of one step from the run folder, line by line: rows of numbers for all, texts for those shown."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from groupwise.errors import RunError
from groupwise.runs import shape
from groupwise.runs.folder import RunFolder, step_name
from groupwise.runs.progress import prompt_text
from groupwise.runs.reader import read_line
from groupwise.runs.transcript import transcript_of_record

KINDS = ("completions", "evaluations")
"""Folders with such files: what was sampled to train on, and what was sampled of held-out problems."""

BEGINNING = 200
"""Characters of a prompt in a row."""

Group = Mapping[str, Any]
Row = dict[str, Any]


class OutsideError(RunError):
    """A path that leads out of the run folder."""


class StepFile:
    """`completions/step-....jsonl` or `evaluations/step-....jsonl` of a run.

    Raises:
        OutsideError: the file is a link that leads out of the run folder.
        FileNotFoundError: there is no such file (any more).
    """

    def __init__(self, folder: RunFolder, kind: str, step: int) -> None:
        assert kind in KINDS
        self.step = step
        self.path = inside(folder.path, folder.path / kind / f"{step_name(step)}.jsonl")
        self._shape = shape.group if kind == "completions" else _held_out

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Where each whole line begins, and the line."""
        place = 0
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield place, line
                place += len(line)

    def groups(self, is_wanted: Callable[[bytes], bool] = bool) -> Iterator[tuple[int, Group]]:
        """Where each group begins in the file, and the group; of all lines, or of those that are wanted.

        A damaged line is passed over.
        """
        for number, (place, line) in enumerate(self.lines(), 1):
            if not is_wanted(line):
                continue
            try:
                yield place, read_line(line, self.path, number, self._shape)
            except RunError:
                continue

    def group_at(self, place: int) -> Group | None:
        """The group whose line begins at `place`; None where none does."""
        with self.path.open("rb") as file:
            if place >= os.fstat(file.fileno()).st_size:
                return None
            if place > 0:
                file.seek(place - 1)
                if file.read(1) != b"\n":
                    return None
            line = file.readline()
        try:
            return read_line(line, self.path, 1, self._shape) if line.endswith(b"\n") else None
        except RunError:
            return None


def inside(folder: Path, path: Path) -> Path:
    """`path` without links, where that is in `folder`."""
    found = path.resolve()
    if not found.is_relative_to(folder.resolve()):
        raise OutsideError(f'"{path}" leads out of the run folder. Copy the file into it.')
    return found


def rows(groups: Iterable[tuple[int, Group]], kl: Sequence[float | None] = ()) -> list[Row]:
    """A row of numbers for each group; lists have one entry a completion. Texts and ids are let go at once.

    Args:
        groups: those of a whole step, each with its place in the file.
        kl: mean log-ratio to the reference of each completion of the step, where it is recorded.
    """
    made = [_row(place, group) for place, group in groups]
    conflicts, ratios = iter(_conflicts(made)), iter(kl)
    for row in made:
        row["conflict"] = [next(conflicts) for _ in row["rewards"]]
        row["kl"] = [next(ratios, None) for _ in row["rewards"]] if kl else []
    return made


def _row(place: int, group: Group) -> Row:
    completions = group["completions"]
    names = dict.fromkeys(name for completion in completions for name in completion["rewards"])
    prompt = prompt_text(group["prompt"])
    return {
        "at": place,
        "draw": group.get("draw"),
        "problem": group.get("problem"),
        "place": group.get("place") or _row_place(group.get("problem")),
        "prompt": prompt[:BEGINNING] + (" …" if len(prompt) > BEGINNING else ""),
        "is_used": group.get("is_used", True),
        "kind": group.get("kind"),
        "rewards": [completion.get("reward") for completion in completions],
        "functions": {name: [completion["rewards"].get(name) for completion in completions] for name in names},
        "advantages": [completion.get("advantage") for completion in completions],
        "lengths": [num_sampled(completion) for completion in completions],
        "stops": [completion.get("stop_reason") for completion in completions],
        "turns": [len(completion.get("turns") or ()) for completion in completions],
    }


def shown(group: Group, first: int, count: int) -> dict[str, Any]:
    """A group with the texts of `count` completions from number `first` on; token ids stay behind."""
    completions = [
        {"number": i, **{key: value for key, value in completion.items() if key != "ids"}}
        | {"length": num_sampled(completion), "text": transcript_or_text(completion)}
        for i, completion in enumerate(group["completions"][first : first + count], first)
    ]
    kept = {key: value for key, value in group.items() if key not in ("completions", "prompt_ids", "schema_version")}
    messages = [{"role": "", "content": kept["prompt"]}] if isinstance(kept["prompt"], str) else kept["prompt"]
    return {
        **kept,
        "place": group.get("place") or _row_place(group.get("problem")),
        "prompt": [{"role": str(m["role"]), "content": _content(m)} for m in messages],
        "num_completions": len(group["completions"]),
        "completions": completions,
    }


def transcript_or_text(completion: Mapping[str, Any]) -> str:
    """What the completion shows to people."""
    has_turns = completion.get("turns") and completion.get("messages")
    return transcript_of_record(completion) if has_turns else str(completion.get("text", ""))


def num_sampled(completion: Mapping[str, Any]) -> int:
    """Tokens that were sampled; those that an environment gave are no part of a length."""
    turns = completion.get("turns")
    return sum(turn["end"] - turn["start"] for turn in turns) if turns else len(completion.get("ids") or ())


def _content(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    calls = message.get("tool_calls")
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False) if content else ""
    return f"{text}\n{json.dumps(calls, ensure_ascii=False)}".strip() if calls else text


def _conflicts(made: Sequence[Row]) -> list[float | None]:
    """How far the reward functions differ about each completion: the widest gap between its standard scores, each among
    the completions of the step; None with fewer than two functions that vary."""
    names = dict.fromkeys(name for row in made for name in row["functions"])
    columns = [[v for row in made for v in row["functions"].get(name, _none_of(row))] for name in names]
    scores = [scored for column in columns if (scored := _standard_scores(column))]
    if len(scores) < 2:
        return [None] * sum(len(row["rewards"]) for row in made)
    each = ([score for score in of_one if score is not None] for of_one in zip(*scores, strict=True))
    return [round(max(found) - min(found), 3) if len(found) > 1 else None for found in each]


def _none_of(row: Row) -> list[None]:
    return [None] * len(row["rewards"])


def _standard_scores(values: Sequence[float | None]) -> list[float | None]:
    """Empty where the values do not vary."""
    measured = [value for value in values if value is not None]
    if not measured or max(measured) == min(measured):
        return []
    mean = fmean(measured)
    spread = math.sqrt(fmean((value - mean) ** 2 for value in measured))
    return [None if value is None else (value - mean) / spread for value in values]


def _row_place(problem: Any) -> str:
    return f"row {problem + 1}" if isinstance(problem, int) else ""


def _held_out(record: Mapping[str, Any]) -> str | None:
    """A line of `evaluations/`: a prompt and completions with rewards; the rest may be missing."""
    if not isinstance(record.get("prompt"), str | list) or not isinstance(record.get("completions"), list):
        return "it has no prompt or no completions"
    fine = all(isinstance(c, dict) and isinstance(c.get("rewards"), dict) for c in record["completions"])
    return None if fine else "a completion has no rewards"
