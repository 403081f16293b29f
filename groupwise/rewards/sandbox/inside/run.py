"""Runs a program: its input on standard input, all that it prints on standard output."""

from __future__ import annotations

import os
import sys
import tempfile
import types
from typing import Any


def run(task: dict[str, Any]) -> None:
    """Execute `task["source"]` as the main program; its exit status becomes that of this process."""
    with tempfile.TemporaryFile() as file:  # a pipe would have to be written to while the program runs
        file.write(task["stdin"].encode("utf-8", "surrogatepass"))
        file.seek(0)
        os.dup2(file.fileno(), 0)
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = ["answer.py"]
    exec(compile(task["source"], "answer.py", "exec", dont_inherit=True), module.__dict__)
