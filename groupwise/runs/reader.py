"""Reads a run folder, one that is still being written too."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from groupwise.errors import RunError
from groupwise.runs import disk, shape
from groupwise.runs.folder import READABLE_SCHEMAS, RunFolder, locked, open_run
from groupwise.runs.records import EvaluationRecord, GroupRecord


class RunReader:
    """What a run has recorded so far. A last line without its end (a crash, a write under way) is not there yet.

    Raises:
        RunError: the folder holds no run, or, when a record is read, the record is damaged or of a later version.
    """

    def __init__(self, run: str | Path | RunFolder) -> None:
        self.folder = run if isinstance(run, RunFolder) else open_run(run)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The resolved recipe; empty when the run has not come so far."""
        path = self.folder.recorded_start
        if path is None:
            return {}
        return _checked(_parse(path.read_bytes(), path, 1), path, shape.config)

    def metrics(self) -> list[dict[str, Any]]:
        """One record a step, in order, under the keys of today."""
        return [with_new_keys(record) for record in _read_lines(self.folder.metrics, shape.metrics)]

    def events(self) -> list[dict[str, Any]]:
        return _read_lines(self.folder.events, shape.event)

    def completion_steps(self) -> list[int]:
        return self.folder.completion_steps()

    def completions(self, step: int) -> list[GroupRecord]:
        """The groups of a step; empty when they were not recorded."""
        return cast(list[GroupRecord], _read_lines(self.folder.completions_of(step), shape.group))

    def evaluation_steps(self) -> list[int]:
        return self.folder.evaluation_steps()

    def evaluations(self, step: int) -> list[EvaluationRecord]:
        """The held-out completions of the evaluation after a step; empty when there was none, or it recorded none."""
        return cast(list[EvaluationRecord], _read_lines(self.folder.evaluations_of(step), shape.evaluation))

    def cut_after(self, step: int, *, last_metrics: int | None = None) -> None:
        """Forget metrics, completions and evaluations later than `step`, so that a resumed run has one history.

        Events stay. `last_metrics` cuts the metrics earlier.
        Each file changes as a whole, and cutting twice is cutting once: a crash in between is mended by the next.
        """
        with locked(self.folder):
            folder = self.folder
            for steps, path_of in (
                (folder.completion_steps(), folder.completions_of),
                (folder.token_steps(), folder.tokens_of),
                (folder.evaluation_steps(), folder.evaluations_of),
            ):
                for later in steps:
                    if later > step:
                        path_of(later).unlink()
            _keep_lines(self.folder.metrics, step if last_metrics is None else last_metrics)


def with_new_keys(record: dict[str, Any]) -> dict[str, Any]:
    """Metrics of earlier versions had `not_judged` where it is `unscored` now."""
    return {
        f"{key.removesuffix('not_judged')}unscored" if key.endswith("not_judged") else key: value
        for key, value in record.items()
    }


def _keep_lines(path: Path, last_step: int) -> None:
    if not path.is_file():
        return
    lines = zip(_complete_lines(path), _read_lines(path, shape.metrics), strict=True)
    kept = [line for line, record in lines if record["step"] <= last_step]
    disk.replace(path, b"".join(line + b"\n" for line in kept))


def _read_lines(path: Path, right: shape.Shape) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [read_line(line, path, i, right) for i, line in enumerate(_complete_lines(path), 1)]


def read_line(line: bytes, path: Path, number: int, right: shape.Shape) -> dict[str, Any]:
    """The record in line `number` of a file; `RunError` where it is damaged or of a later version."""
    return _checked(_parse(line, path, number), path, right, number)


def _complete_lines(path: Path) -> list[bytes]:
    return path.read_bytes().split(b"\n")[:-1]


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RunError(
            f'"{path}" is damaged: line {number} is not JSON ({error}). '
            "Restore the file from a backup, or delete that line."
        ) from error
    if not isinstance(record, dict):
        raise RunError(f'"{path}" is damaged: line {number} is not a JSON object. Delete that line.')
    return record


def _checked(record: dict[str, Any], path: Path, right: shape.Shape, number: int = 1) -> dict[str, Any]:
    found = record.get("schema_version")
    if type(found) is int and found in READABLE_SCHEMAS:
        if (wrong := right(record)) is not None:
            raise RunError(
                f'"{path}" is damaged: line {number} is no record of a run, {wrong}. '
                "Restore the file from a backup, or delete that line."
            )
        return record
    raise RunError(
        f'"{path}" was written in schema version {found}; this groupwise reads 1 to {READABLE_SCHEMAS[-1]}. '
        "Read it with the version of groupwise that wrote it (run.json names it), or update groupwise."
    )
