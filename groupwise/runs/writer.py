"""Writes a run folder: append-only, one complete line at a time, nothing buffered between steps."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from groupwise.json_values import plain_value
from groupwise.redact import without_secrets
from groupwise.runs import disk
from groupwise.runs.folder import SCHEMA_VERSION, RunFolder, locked
from groupwise.runs.records import EvaluationRecord, group_record
from groupwise.types import StepGroup

if TYPE_CHECKING:
    from groupwise.runs.token_record import TokenRecord


class RunWriter:
    """The one writer of a run. What it has returned from is on disk and stays there, whatever happens next."""

    def __init__(self, folder: RunFolder) -> None:
        """Take the run for this process; `RunError` when another one is writing it."""
        self.folder = folder
        self._open = contextlib.ExitStack()
        self._open.enter_context(locked(folder))
        for path in (folder.metrics, folder.events):
            disk.mend_last_line(path)
        self._last_step: int | None = None
        self._unflushed: list[Path] = []

    def config(self, values: Mapping[str, Any]) -> None:
        """Write `run.json` (replaces an earlier one as a whole); access tokens are left out."""
        not_finite: dict[str, str] = {}
        plain = plain_value(without_secrets(dict(values)), not_finite)
        text = json.dumps({"schema_version": SCHEMA_VERSION, **plain}, indent=2, ensure_ascii=False, allow_nan=False)
        disk.replace(self.folder.run_json, text.encode("utf-8", "backslashreplace") + b"\n")
        self._note_not_finite("run.json", not_finite)

    def tokenizer(self, content: bytes) -> None:
        """Write the file of the tokenizer, for readers that show single tokens."""
        disk.replace(self.folder.tokenizer, content)

    def step(self, metrics: Mapping[str, Any]) -> None:
        """Append the record of one step; a number that is not finite becomes null and an event."""
        step = int(metrics["step"])
        assert self._last_step is None or step > self._last_step, f"step {step} after step {self._last_step}"
        not_finite: dict[str, str] = {}
        disk.append(self.folder.metrics, _line({"schema_version": SCHEMA_VERSION, **plain_value(metrics, not_finite)}))
        self._last_step = step
        self._note_not_finite("metrics.jsonl", not_finite, step=step)

    def event(self, kind: str, **fields: Any) -> None:
        """Append something that happened: a start, a checkpoint, a guard that fired, a warning."""
        head = {"schema_version": SCHEMA_VERSION, "time": datetime.now(UTC).isoformat(timespec="seconds"), "kind": kind}
        disk.append(self.folder.events, _line({**head, **plain_value(without_secrets(fields), {})}))

    def completions(self, step: int, groups: Sequence[StepGroup], tokens: TokenRecord | None = None) -> None:
        """Write the groups of a step, dropped ones too, after the record of their tokens; a file appears whole or not
        at all."""
        if tokens is not None:
            self._replace(self.folder.tokens_of(step), tokens.as_bytes())
        not_finite: dict[str, str] = {}
        records = [
            plain_value(group_record(group, SCHEMA_VERSION), not_finite, f"draw {group.draw}") for group in groups
        ]
        self._replace(self.folder.completions_of(step), b"".join(_line(record) for record in records))
        self._note_not_finite(self.folder.completions_of(step).name, not_finite, step=step)

    def evaluations(self, step: int, records: Iterable[EvaluationRecord]) -> None:
        """Write the held-out completions of an evaluation in the place of those of an earlier one after that step."""
        path, not_finite = self.folder.evaluations_of(step), dict[str, str]()
        with disk.plain_errors(path, 0):
            path.parent.mkdir(exist_ok=True)
        self._replace(path, b"".join(_line(plain_value(record, not_finite, record["kind"])) for record in records))
        self._note_not_finite(path.name, not_finite, step=step)

    def flush(self) -> None:
        """Wait until everything that was recorded would survive a power cut."""
        folder = self.folder
        for path in (*self._unflushed, folder.completions, folder.evaluations, folder.metrics, folder.events):
            if path.exists():
                disk.sync(path)
        self._unflushed = []

    def close(self) -> None:
        self._open.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _replace(self, path: Path, content: bytes) -> None:
        disk.replace(path, content)
        self._unflushed.append(path)

    def _note_not_finite(self, file: str, found: Mapping[str, str], **fields: Any) -> None:
        if found:
            self.event("not_finite", file=file, values=found, **fields)


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
