"""How a run ended, from its events, and how to go on with it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from groupwise.errors import shortened
from groupwise.runs import RunReader, schema_1
from groupwise.runs.folder import is_being_written
from groupwise.runs.series import Record

_ENDS = ("end", "failed", "interrupted")


def ending(reader: RunReader) -> str:
    """What ended a run before its last step, and how to go on; empty for a run that came to its end by itself."""
    records = reader.metrics()
    last_step = int(records[-1]["step"]) if records else 0
    is_written = is_being_written(reader.folder)
    return why_ended(reader.events(), last_step, is_being_written=is_written, resume=_how_to_resume(reader))


def why_ended(events: Sequence[Record], last_step: int, *, is_being_written: bool = False, resume: str = "") -> str:
    """The same from the events of a run that has recorded `last_step` steps; `resume` is how to go on with it."""
    latest = _since_start(events)
    last = next((event for event in reversed(latest) if event.get("kind") in _ENDS), None)
    guard = _ended_by_guard(latest)
    if not latest or (last is not None and last.get("is_complete")):
        return guard
    if last is None and is_being_written:
        return "The run is under way."
    after = f"after step {last_step}" if last_step else "before a step was finished"
    why = guard or _why(latest, last, after)
    return f"{why} {resume}".strip() if _can_resume(latest) else why


def _since_start(events: Sequence[Record]) -> Sequence[Record]:
    """The events since the run was last started or resumed."""
    starts = [i for i, event in enumerate(events) if event.get("kind") in ("start", "resume")]
    return events[starts[-1] :] if starts else ()


def _ended_by_guard(events: Sequence[Record]) -> str:
    """The message of the guard that ended the run, and what became of the weights; empty when none did."""
    text = ""
    for event in events:
        if event.get("kind") == "guard" and event.get("action") in ("stop", "rollback"):
            text = str(event.get("message", ""))
        elif event.get("kind") == "rollback":
            text += f" {event.get('message', '')}"
    return text


def _can_resume(events: Sequence[Record]) -> bool:
    """Not where a guard found no checkpoint to go back to: the newest one may hold what the run was ended for."""
    return not any(event.get("kind") == "rollback" and event.get("to_step") is None for event in events)


def _why(events: Sequence[Record], last: Record | None, after: str) -> str:
    if last is None:
        return f"The run broke off {after} and could not record why: it was killed, or the machine stopped."
    if last.get("kind") == "failed":
        return f"The run failed {after}: {_sentence(shortened(str(last.get('error')), 600))}"
    if last.get("kind") == "interrupted":
        return f"The run was stopped at once {after}: Ctrl-C or SIGTERM came twice."
    by = [event.get("signal") or f"callback {event['callback']}" for event in events if _asks_to_stop(event)]
    return f"Ended early {after}{f' by {by[0]}' if by else ''}."


def _asks_to_stop(event: Record) -> bool:
    return bool(event.get("signal") or (event.get("kind") == "stopped" and event.get("callback")))


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _how_to_resume(reader: RunReader) -> str:
    """By the command where a recipe file started the run, else by the trainer that the script makes."""
    folder = reader.folder
    steps = [*folder.checkpoint_steps(), *schema_1.checkpoints(folder.path)]
    what = f"To go on from the checkpoint of step {max(steps)}" if steps else "It has no checkpoint; to begin again"
    if reader.config.get("recipe_folder") is None:
        return f"{what}: trainer.train(resume_from_checkpoint=True)"
    return f"{what}: groupwise train {shlex.quote(str(folder.path.resolve()))} --resume"
