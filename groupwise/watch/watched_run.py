"""A run folder that is looked at again and again while it grows, is resumed, cut, written over or deleted."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groupwise.errors import RunError
from groupwise.report.ending import why_ended
from groupwise.runs import shape
from groupwise.runs.folder import RunFolder, is_being_written, recorded_steps
from groupwise.runs.followed_records import FollowedRecords
from groupwise.runs.reader import RunReader, with_new_keys
from groupwise.watch.columns import Columns

_STARTS = ("start", "resume")
_ENDS = ("end", "failed", "interrupted")

RECENT = 20
"""Steps that the time left is estimated from."""


class WatchedRun:
    """What a run folder holds now. Every public method looks first; threads may call them at once.

    Memory: the metrics as arrays, the events, and the numbers of the steps; completions are read when they are shown.
    """

    def __init__(self, path: Path) -> None:
        self.folder = RunFolder(path)
        self.columns = Columns()
        self.events: list[dict[str, Any]] = []
        self.config: dict[str, Any] = {}
        self.steps: dict[str, list[int]] = {"completions": [], "evaluations": []}
        self.is_there = False
        self.num_changes = 0
        self._num_histories = 0
        self._lock = threading.RLock()
        self._metrics = FollowedRecords(self.folder.metrics, shape.metrics)
        self._events = FollowedRecords(self.folder.events, shape.event)
        self._seen: dict[str, Any] = {}
        self._is_written = False
        self._config_damage = ""

    @property
    def name(self) -> str:
        return str(self._recipe.get("run_name") or self.folder.path.resolve().name)

    @contextmanager
    def looked_at(self) -> Iterator[WatchedRun]:
        """Inside, the run is as the folder is now, and no other thread changes it."""
        with self._lock:
            self._look()
            yield self

    def version(self) -> dict[str, Any]:
        """What a page compares to find out whether it is up to date."""
        with self.looked_at():
            return {
                "changes": self.num_changes,
                "history": self._num_histories,
                "last_step": self.last_step,
                "state": self.state,
            }

    @property
    def last_step(self) -> int:
        return self.columns.steps[-1] if len(self.columns) else 0

    @property
    def state(self) -> str:
        """`gone`, `waiting` (for its start), `training`, `finished`, or `ended`: before its last step."""
        if not self.is_there:
            return "gone"
        latest = _since_start(self.events)
        if not latest and not len(self.columns):
            return "waiting"
        last = next((event for event in reversed(latest) if event["kind"] in _ENDS), None)
        if last is None:
            return "training" if self._is_written else "ended"
        return "finished" if last.get("is_complete") else "ended"

    @property
    def ending(self) -> str:
        """Why the run ended before its last step, in a sentence; empty while it trains and when it has finished."""
        if self.state != "ended":
            return ""
        return why_ended(self.events, self.last_step, is_being_written=self._is_written)

    @property
    def damage(self) -> list[str]:
        """A sentence for each record that cannot be read."""
        return [text for text in (self._config_damage, self._metrics.damage, self._events.damage) if text]

    @property
    def num_steps(self) -> int | None:
        """Steps of the whole run; None where the recipe does not settle it."""
        recipe, data = self._recipe, self.config.get("data") or {}
        if _is_count(recipe.get("max_steps")):
            return int(recipe["max_steps"])
        counts = (recipe.get("num_train_epochs"), data.get("num_problems"), recipe.get("prompts_per_step"))
        if not all(map(_is_count, counts)):
            return None
        epochs, num_problems, each = map(float, counts)  # type: ignore[arg-type]
        return math.ceil(epochs * num_problems / each)

    @property
    def seconds_left(self) -> float | None:
        """Steps left x the seconds of the latest ones; None where nothing is left or known."""
        times = self.columns.recent("step_time", RECENT)
        if self.state != "training" or not times or self.num_steps is None:
            return None
        return max(0, self.num_steps - self.last_step) * sum(times) / len(times)

    @property
    def _recipe(self) -> Mapping[str, Any]:
        return self.config.get("recipe") or {}

    def _look(self) -> None:
        self.is_there = self.folder.path.is_dir()
        if not self.is_there:  # what was read stays, so that the page goes on
            self._note("is_there", False)
            return
        changes = [
            self._note("is_there", True),
            self._look_at_config(),
            self._metrics.look(self._begin, lambda record: self.columns.add(with_new_keys(record))),
            self._events.look(self.events.clear, self.events.append),
            *map(self._look_at_steps, self.steps),
        ]
        self._look_at_lock(has_changed=any(changes))
        self.num_changes += any(changes)

    def _begin(self) -> None:
        self.columns = Columns()
        self._num_histories += 1

    def _look_at_config(self) -> bool:
        path = self.folder.recorded_start
        if not self._note("config", path and _state(path)):
            return False
        try:
            self.config, self._config_damage = RunReader(self.folder).config, ""
        except RunError as error:
            self.config, self._config_damage = {}, str(error)
        return True

    def _look_at_steps(self, kind: str) -> bool:
        path = self.folder.path / kind
        if not self._note(kind, _state(path)):
            return False
        self.steps[kind] = recorded_steps(path)
        return True

    def _look_at_lock(self, *, has_changed: bool) -> None:
        """Whether a process writes the run: looked up after news, and on while the answer is yes.

        To look is to take the lock for an instant, so a folder in which nothing happens is left alone.
        """
        if has_changed or self._is_written:
            self._note("written", is_written := is_being_written(self.folder))
            self._is_written = is_written

    def _note(self, what: str, found: Any) -> bool:
        """Keep what was found; whether it differs from the last look."""
        if self._seen.get(what) == found:
            return False
        self._seen[what] = found
        self.num_changes += what in ("is_there", "written")
        return True


def _since_start(events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    start = next((i for i in range(len(events) - 1, -1, -1) if events[i]["kind"] in _STARTS), len(events))
    return events[start:]


def _state(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _is_count(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def plain_json(value: Any) -> str:
    """A value of a recipe as a person writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
