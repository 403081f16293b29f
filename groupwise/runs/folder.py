"""The paths of a run folder, and its lock. docs/run-folder.md is the contract."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from groupwise.errors import RunError, near_path
from groupwise.runs import schema_1
from groupwise.ways_out import ways_out

SCHEMA_VERSION = 2
"""Stands in every record. It grows when a reader of the old layout would misread the new one."""

READABLE_SCHEMAS = (1, SCHEMA_VERSION)
"""Of records. Runs of schema 1 differ in the names of files (`runs/schema_1.py`), not in the records."""

MIN_FREE_BYTES = 64 * 2**20
"""Room a run needs for its records alone; the caller adds what its checkpoints take."""

SET_ASIDE = "set-aside-"
"""Before the name of a checkpoint that nothing goes on from any more."""

_STEP_NAME = re.compile(r"step-(\d+)\.jsonl")
_TOKENS_NAME = re.compile(r"step-(\d+)\.tokens\.safetensors")
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")
_OF_CHECKPOINT = ("manifest.json", "state", "state.json")
"""Entries of which every checkpoint of ours has one, damaged or not; a folder of the same name without them is
another trainer's."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of a run; creates nothing by itself."""

    path: Path

    @property
    def run_json(self) -> Path:
        """The resolved recipe and the machine."""
        return self.path / "run.json"

    @property
    def recorded_start(self) -> Path | None:
        """The file with the record of the run's start, under its name of today or of schema 1; None before it."""
        return self.run_json if self.run_json.is_file() else schema_1.config_of(self.path)

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def lock(self) -> Path:
        """Held by the one process that writes the run."""
        return self.path / ".lock"

    @property
    def reserve(self) -> Path:
        """Room for the next checkpoint."""
        return self.path / ".reserve"

    @property
    def completions(self) -> Path:
        return self.path / "completions"

    @property
    def tokenizer(self) -> Path:
        """What the ids of completions are decoded with; runs with a slow tokenizer have none."""
        return self.completions / "tokenizer.json"

    @property
    def evaluations(self) -> Path:
        return self.path / "evaluations"

    @property
    def final(self) -> Path:
        return self.path / "final"

    @property
    def check(self) -> Path:
        """What `groupwise check` found, where it is in the way of no training."""
        return self.path / "check"

    @property
    def report(self) -> Path:
        return self.path / "report"

    def completions_of(self, step: int) -> Path:
        return self.completions / f"{step_name(step)}.jsonl"

    def tokens_of(self, step: int) -> Path:
        """The per-token record of a step."""
        return self.completions / f"{step_name(step)}.tokens.safetensors"

    def evaluations_of(self, step: int) -> Path:
        """The held-out completions of the evaluation after a step; 0 is the untrained model's."""
        return self.evaluations / f"{step_name(step)}.jsonl"

    def checkpoint_of(self, step: int) -> Path:
        return self.path / checkpoint_name(step)

    def checkpoint_steps(self) -> list[int]:
        """Steps with a checkpoint, ascending. A folder under another name (one being written) does not count."""
        steps = _steps_in(self.path, _CHECKPOINT)
        return [step for step in steps if _is_checkpoint(self.checkpoint_of(step))]

    def completion_steps(self) -> list[int]:
        """Steps whose completions are recorded, ascending."""
        return _steps_in(self.completions, _STEP_NAME)

    def token_steps(self) -> list[int]:
        """Steps with a per-token record, ascending."""
        return _steps_in(self.completions, _TOKENS_NAME)

    def evaluation_steps(self) -> list[int]:
        """Steps whose held-out completions are recorded, ascending."""
        return _steps_in(self.evaluations, _STEP_NAME)

    @property
    def latest_checkpoint(self) -> Path | None:
        steps = self.checkpoint_steps()
        return self.checkpoint_of(steps[-1]) if steps else None

    @property
    def is_run(self) -> bool:
        """Whether a run was started here, however far it came."""
        return any(file.is_file() for file in (self.run_json, self.metrics, self.events)) or schema_1.is_run(self.path)

    @property
    def has_trained(self) -> bool:
        """Whether something would be lost here: a finished step, a checkpoint or a final model."""
        has_metrics = self.metrics.is_file() and self.metrics.stat().st_size > 0
        has_checkpoints = bool(self.checkpoint_steps() or schema_1.checkpoints(self.path))
        return has_metrics or has_checkpoints or (self.final.is_dir() and any(self.final.iterdir()))


def recorded_steps(path: Path) -> list[int]:
    """Steps that have a file `step-....jsonl` in the folder `path`, ascending."""
    return _steps_in(path, _STEP_NAME)


def step_name(step: int) -> str:
    """`step-000123`: sorts by name as by number up to a million steps."""
    return f"step-{step:06d}"


def checkpoint_name(step: int) -> str:
    """`checkpoint-100`: the ecosystem's name."""
    return f"checkpoint-{step}"


def open_run(path: str | Path) -> RunFolder:
    """The folder of an existing run.

    Raises:
        RunError: there is no such folder, or it holds no run.
    """
    folder = RunFolder(Path(os.path.expanduser(path)))
    if not folder.path.is_dir():
        why = "it is a file." if folder.path.exists() else f"there is no such folder.{near_path(path)}"
        raise RunError(f'No run folder at "{path}": {why} Give the output_dir of a run.')
    if not folder.is_run:
        raise RunError(
            f'"{path}" is not a run folder: found neither run.json nor metrics.jsonl. Give the output_dir of a run.'
        )
    return folder


def create(
    output_dir: str | Path, *, overwrite: bool = False, resume: bool = False, min_free_bytes: int = MIN_FREE_BYTES
) -> RunFolder:
    """Make (or, with `resume`, reopen) the folder of a run and check that it can be written.

    A folder in which a run has finished a step is refused unless `overwrite` (its records, checkpoints and final model
    are deleted, nothing else) or `resume`. A start that failed before its first step leaves nothing to protect.
    Another trainer's folder that has the name of a checkpoint is refused too: a checkpoint would take its place.

    Raises:
        RunError: it is refused, in use by another process, cannot be written, or has less than `min_free_bytes` left.
    """
    assert not (overwrite and resume), "a run is either replaced or continued"
    folder = RunFolder(Path(output_dir))
    _make_writable(folder.path, folder)
    if not overwrite and not resume:
        require_free(folder)
    if overwrite or folder.is_run:
        with locked(folder):  # never a run that another process is writing
            if overwrite:
                _delete_run(folder)
    folder.completions.mkdir(exist_ok=True)
    _require_space(folder, min_free_bytes)
    return folder


def require_free(folder: RunFolder) -> None:
    """Raise `RunError` where a new run would write over another one, or a checkpoint over another program's."""
    if folder.has_trained:
        raise RunError(
            f'"{folder.path}" already holds a run ({_what_it_holds(folder)}); expected a new or empty folder. '
            f"Choose another output_dir, go on with that run ({ways_out().resume}), or have it deleted "
            f"({ways_out().overwrite})."
        )
    _refuse_others_checkpoints(folder)


@contextlib.contextmanager
def locked(folder: RunFolder) -> Iterator[None]:
    """Hold the run for this process; `RunError` when another has it. The system frees it when a process dies.

    Children that are forked inside do not hold it: one that outlives this process must not keep it.
    Within the process that holds it, holding it again is free.
    """
    lock = FileLock(folder.lock, thread_local=False, is_singleton=True)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunError(
            f'"{folder.path}" is in use: another process is writing this run. '
            "Wait for it, stop it, or choose another output_dir."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _refuse_others_checkpoints(folder: RunFolder) -> None:
    paths = map(folder.checkpoint_of, _steps_in(folder.path, _CHECKPOINT))
    others = [path for path in paths if not _is_checkpoint(path) and not _is_empty_folder(path)]
    if others:
        raise RunError(
            f'"{others[0]}" was written by another program, and a checkpoint of this run would take its place. Choose '
            "another output_dir, move it away, or have it replaced when that step is saved "
            f"({ways_out().overwrite})."
        )


def is_being_written(folder: RunFolder) -> bool:
    """Whether a process, this one included, is writing the run now."""
    if not folder.lock.exists():
        return False
    lock = FileLock(folder.lock, thread_local=False, is_singleton=True)
    if lock.is_locked:
        return True
    try:
        with lock.acquire(blocking=False):
            return False
    except Timeout:
        return True


def _what_it_holds(folder: RunFolder) -> str:
    num_steps = folder.metrics.read_bytes().count(b"\n") if folder.metrics.is_file() else 0
    num_checkpoints = len(folder.checkpoint_steps()) + len(schema_1.checkpoints(folder.path))
    return f"{num_steps} steps recorded, {num_checkpoints} checkpoints"


def _delete_run(folder: RunFolder) -> None:
    """Delete what a run writes; a model that the user saved into the folder itself stays."""
    schema_1.delete(folder.path)
    for file in (folder.run_json, folder.metrics, folder.events):
        file.unlink(missing_ok=True)
    checkpoints = [folder.checkpoint_of(step) for step in folder.checkpoint_steps()]
    set_aside = folder.path.glob(f"{SET_ASIDE}{checkpoint_name(0)[:-1]}*")
    for path in (folder.completions, folder.evaluations, folder.final, folder.report, *checkpoints, *set_aside):
        if path.is_dir():
            shutil.rmtree(path)
    folder.reserve.unlink(missing_ok=True)


def make_check(output_dir: str | Path) -> Path:
    """The folder for what `groupwise check` finds; `RunError` where it cannot be made or written."""
    folder = RunFolder(Path(output_dir))
    _make_writable(folder.check, folder)
    return folder.check


def require_folder(folder: RunFolder) -> None:
    """Raise `RunError` where a file stands in the place of the run or of a folder above it. Writes nothing."""
    there = _deepest_there(folder.path)
    if not there.is_dir():
        raise RunError(f"{_file_in_the_way(there, folder)} Choose another output_dir.")


def _deepest_there(path: Path) -> Path:
    """The path, or the deepest of the folders above it that exists."""
    return next(place for place in (path, *path.absolute().parents) if os.path.exists(place))


def _file_in_the_way(file: Path, folder: RunFolder) -> str:
    what = f'output_dir "{folder.path}"'
    if file == folder.path:
        return f"{what} is a file; expected a folder."
    return f'{what} cannot be made: "{file}" is a file; expected a folder.'


def _make_writable(path: Path, folder: RunFolder) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:  # permissions alone are no proof: read-only disks, root
            probe.write(b"\n")
    except OSError as error:
        raise RunError(f"{_why_not_writable(path, folder, error)} Choose another output_dir.") from error


def _why_not_writable(path: Path, folder: RunFolder, error: OSError) -> str:
    """The obstacle: a file, or the system's error, with the deepest folder that exists."""
    what = f'output_dir "{folder.path}"'
    there = _deepest_there(path)
    if not there.is_dir():
        return _file_in_the_way(there, folder)
    if there == path:
        return f"Cannot write to {what}: {error.strerror}. Expected a folder that you may write to."
    reason = "the system lets nobody make one there" if isinstance(error, FileNotFoundError) else error.strerror
    return f'{what} cannot be made in "{there}": {reason}. Expected a place that you may write to.'


def _require_space(folder: RunFolder, min_free_bytes: int) -> None:
    held = folder.reserve.stat().st_size if folder.reserve.is_file() else 0  # by a run that was killed
    free = shutil.disk_usage(folder.path).free + held
    if free < min_free_bytes:
        raise RunError(
            f'No space left for the run folder "{folder.path}": {free / 2**20:,.0f} MiB free, '
            f"at least {min_free_bytes / 2**20:,.0f} MiB needed. Free some space or choose another output_dir."
        )


def _steps_in(path: Path, name: re.Pattern[str]) -> list[int]:
    if not path.is_dir():
        return []
    found = (name.fullmatch(entry.name) for entry in path.iterdir())
    return sorted(int(match[1]) for match in found if match)


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is_checkpoint(path: Path) -> bool:
    return any((path / entry).exists() for entry in _OF_CHECKPOINT)
