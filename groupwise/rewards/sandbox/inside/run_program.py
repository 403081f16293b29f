"""Runs a program: its input on standard input, all that it prints on standard output."""

from __future__ import annotations

import os
import sys
import types

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any  # takes a third of the time that a worker starts in


def run_program(task: dict[str, Any]) -> None:
    """Execute `task["source"]` as the main program; its exit status becomes that of this process."""
    os.dup2(_filed(task["stdin"].encode("utf-8", "surrogatepass")), 0)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["answer.py"]
    exec(compile(task["source"], "answer.py", "exec", dont_inherit=True), module.__dict__)


def _filed(data: bytes) -> int:
    """A file with this content and no name: a pipe would have to be written to while the program runs."""
    path = f"/tmp/groupwise-{os.urandom(16).hex()}"  # tempfile alone would double the time that a worker starts in
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    os.unlink(path)
    while data:
        data = data[os.write(file, data) :]
    os.lseek(file, 0, os.SEEK_SET)
    return file
