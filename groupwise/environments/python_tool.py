"""The tool `python`: runs a program that the policy has written, in a sandbox of its own."""

from __future__ import annotations

from groupwise.environments.tools import Tool
from groupwise.rewards.sandbox.limits import Limits
from groupwise.rewards.sandbox.programs import Programs

LIMIT_S = 10.0
"""Seconds that a program may take at most."""


class FailedProgramError(Exception):
    """A program that has ended badly; its words are what the policy reads."""


class PythonTool:
    """Runs programs, each in a fresh sandbox that was started before: no network, no files, nothing kept."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self.programs = Programs(limit_s, Limits(memory_mb=512))

    def check_sandbox(self) -> None:
        """Raise `ConfigError` where there is none."""
        self.programs.check_sandbox()

    def load(self) -> None:
        """Start the sandboxes that wait."""
        self.programs.start()

    def __call__(self, code: str) -> str:
        """What the program prints."""
        printed = self.programs.run(code, "")
        if printed.error is not None:
            raise FailedProgramError(f"{printed.text}{printed.error}")
        return printed.text or "(The program has printed nothing.)"


def python_tool(timeout_s: float = LIMIT_S) -> Tool:
    """The tool; a program may take 10 s, and less than a call: a loop without end is the policy's fault."""
    return Tool(
        "python",
        PythonTool(min(LIMIT_S, timeout_s / 3)),
        "Run a Python program and read what it prints. Nothing is kept from one call to the next.",
        {
            "type": "object",
            "properties": {"code": {"type": "string", "description": "The program. It has to print its results."}},
            "required": ["code"],
        },
    )
