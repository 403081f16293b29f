"""Where a child is when it is killed, and how it kills itself at an exact place. Only for forked children."""

from __future__ import annotations

import functools
import mmap
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import safetensors.torch

from groupwise.checkpoint import checkpoint_writer
from groupwise.checkpoint import store as checkpoint
from groupwise.lifecycle import resume
from groupwise.runs.writer import RunWriter
from groupwise.train.collect import Collector
from groupwise.train.learner import Learner

PHASES = ("between", "starting", "resuming", "rollout", "update", "records", "checkpoint", "finishing")
PLACE = mmap.mmap(-1, 1)
"""The phase a child is in: one byte that its parent can read after its death."""

CHANGES_OF_THE_DISK = (
    *("write", "fsync", "replace", "rename", "unlink", "remove", "rmdir", "mkdir", "truncate", "ftruncate"),
)


def enter(phase: str) -> None:
    PLACE[0] = PHASES.index(phase)


def phase() -> str:
    return PHASES[PLACE[0]]


def _in_phase(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def inside(*arguments: Any, **keywords: Any) -> Any:
        before = PLACE[0]
        enter(name)
        result = function(*arguments, **keywords)
        PLACE[0] = before
        return result

    return inside


def follow_phases() -> None:
    """Let the parent see what this process is doing."""
    for owner, attribute, name in (
        (Collector, "collect", "rollout"),
        (Learner, "update", "update"),
        (RunWriter, "completions", "records"),
        (RunWriter, "step", "records"),
        (RunWriter, "event", "records"),
        (checkpoint_writer, "save_checkpoint", "checkpoint"),
        (resume, "newest_whole", "resuming"),
        (resume, "restore", "resuming"),
        (resume, "cut", "resuming"),
    ):
        setattr(owner, attribute, _in_phase(name, getattr(owner, attribute)))


class Boundaries:
    """Counts everything this process does to the disk, and dies at one of them: before it, or half way through it."""

    def __init__(self, die_at: int | None) -> None:
        self.die_at = die_at
        self.count = 0
        for name in CHANGES_OF_THE_DISK:
            setattr(os, name, self._guarded(getattr(os, name)))
        save_file = safetensors.torch.save_file
        checkpoint.save_file = functools.partial(self._save_file, save_file)  # type: ignore[attr-defined]

    def _guarded(self, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def counted(*arguments: Any, **keywords: Any) -> Any:
            if self._is_last():
                if function.__name__ == "write":  # a torn line, or a torn file
                    function(arguments[0], arguments[1][: len(arguments[1]) // 2])
                die()
            return function(*arguments, **keywords)

        return counted

    def _save_file(self, save_file: Callable[..., Any], tensors: Any, path: Path) -> None:
        is_last = self._is_last()
        save_file(tensors, path)
        if is_last:
            os.truncate(path, path.stat().st_size // 2)
            die()

    def _is_last(self) -> bool:
        self.count += 1
        return self.count - 1 == self.die_at


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
