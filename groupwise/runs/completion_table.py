"""The completions of a step as a table, for the screen and for trackers that take tables."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from groupwise.runs.progress import prompt_text
from groupwise.runs.text import clean, number
from groupwise.types import StepGroup

WIDTH = 100
"""Columns of a table that no terminal shows."""


@dataclass(frozen=True)
class CompletionTable:
    """One row a completion: prompt (of a chat its last message), completion, the reward of each function, advantage."""

    step: int
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, step: int, groups: Sequence[StepGroup]) -> CompletionTable:
        """The table of the groups that a step was trained on."""
        names = tuple(groups[0].rewards) if groups else ()
        rows = (
            (prompt_text(group.problem.prompt), completion.text, *(group.rewards[name][i] for name in names), advantage)
            for group in groups
            for i, (completion, advantage) in enumerate(zip(group.completions, group.advantages, strict=True))
        )
        return cls(step, ("prompt", "completion", *names, "advantage"), tuple(rows))

    def with_unique_prompts(self) -> CompletionTable:
        """The first row of each prompt."""
        first = {row[0]: row for row in reversed(self.rows)}
        kept = tuple(row for row in self.rows if first[row[0]] is row)
        return CompletionTable(self.step, self.columns, kept)

    def sampled(self, num: int | None) -> CompletionTable:
        """So many rows, drawn by the number of the step; None keeps all."""
        if num is None or num >= len(self.rows):
            return self
        chosen = sorted(Random(self.step).sample(range(len(self.rows)), num))
        return CompletionTable(self.step, self.columns, tuple(self.rows[i] for i in chosen))

    def text(self, width: int | None = None) -> str:
        """Lines of ASCII frames, as wide as the terminal; what a model wrote cannot steer it."""
        table = Table(box=box.ASCII, show_lines=True, expand=True, title=f"Step {self.step}")
        for name in self.columns:
            is_text = name in ("prompt", "completion")
            table.add_column(Text(clean(name)), ratio=1 if is_text else None, justify="left" if is_text else "right")
        for prompt, completion, *numbers in self.rows:
            table.add_row(_words(prompt), _words(completion), *(Text(number(value)) for value in numbers))
        columns = width or shutil.get_terminal_size((WIDTH, 24)).columns
        console = Console(file=io.StringIO(), width=columns, color_system=None)
        with console.capture() as captured:
            console.print(table)
        return captured.get().rstrip("\n")


def _words(text: str) -> Text:
    return Text("\n".join(map(clean, text.splitlines())))
