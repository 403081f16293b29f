"""Reads the lines of a record that grows, each look from where the last one ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from groupwise.errors import RunError
from groupwise.runs.reader import read_line
from groupwise.runs.shape import Shape

_MARK = 256
"""Bytes before the end of the last look that have to be there still: a file that was cut and grew again differs."""


class FollowedRecords:
    """The records of a `.jsonl` file that another process appends to, cuts or replaces.

    A line without its newline is not there yet. A damaged line is passed over, and `damage` is the sentence about it.
    """

    def __init__(self, path: Path, right: Shape) -> None:
        self.path = path
        self.damage = ""
        self._right = right
        self._seen: tuple[int, int, int] | None = None
        self._end, self._number, self._mark = 0, 0, b""

    def look(self, begin: Callable[[], None], add: Callable[[dict[str, Any]], None]) -> bool:
        """Hand each new record to `add`; `begin` comes first where the file is another one than at the last look.

        Returns whether anything was handed over.
        """
        try:
            with self.path.open("rb") as file:
                if (state := _state(file)) == self._seen:
                    return False
                is_new = not self._goes_on(file)
                if is_new:
                    self._forget()
                    begin()
                self._seen = state
                return self._read(file, add) or is_new
        except FileNotFoundError:
            was_there = self._seen is not None
            if was_there:
                self._forget()
                begin()
            return was_there

    def _forget(self) -> None:
        self._seen, self.damage = None, ""
        self._end, self._number, self._mark = 0, 0, b""

    def _goes_on(self, file: BinaryIO) -> bool:
        """Whether what was read last time still stands there."""
        inode, size, _ = _state(file)
        if self._seen is None or inode != self._seen[0] or size < self._end:
            return False
        file.seek(self._end - len(self._mark))
        return file.read(len(self._mark)) == self._mark

    def _read(self, file: BinaryIO, add: Callable[[dict[str, Any]], None]) -> bool:
        file.seek(self._end)
        before = self._number
        for line in file:
            if not line.endswith(b"\n"):
                break
            self._number += 1
            self._end += len(line)
            self._mark = line[-_MARK:]
            try:
                record = read_line(line, self.path, self._number, self._right)
            except RunError as error:
                self.damage = str(error)
            else:
                add(record)
        return self._number > before


def _state(file: BinaryIO) -> tuple[int, int, int]:
    found = os.fstat(file.fileno())
    return found.st_ino, found.st_size, found.st_mtime_ns
