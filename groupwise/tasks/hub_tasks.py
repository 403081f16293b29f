"""Tasks whose problems are a data set: on the Hub, or a file with the same columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from groupwise.data import load_problems
from groupwise.data.problems import Problems
from groupwise.errors import ConfigError, near_column
from groupwise.tasks.asking import Asking
from groupwise.tasks.generated import Split


@dataclass(frozen=True)
class FromHub(Asking):
    """Rows to ask, and the columns of question and solution. The other columns stay as they are."""

    path: str = ""
    """Hub id, or a file."""
    subset: str | None = None
    revision: str | None = None
    split: str = "train"
    """Rows to train on: a name, a slice or both."""
    eval_split: str | None = "test"
    """Held-out rows; null for none."""
    question: str = "question"
    """Column of the question."""
    solution: str = "answer"
    """Column of the solution."""

    reserved: ClassVar[tuple[str, ...]] = ("prompt", "answer")

    def row(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        """The task's own row, with `prompt` and `answer`."""
        raise NotImplementedError

    def rows(self, split: Split) -> list[dict[str, Any]]:
        """All rows of a split.

        Raises:
            DataError: a row without question or answer, by its number.
        """
        source = load_problems(
            self.path,
            split=self.split if split == "train" else self.eval_split,
            columns={"prompt": self.question},
            subset=self.subset,
            revision=self.revision,
        )
        self._check_columns(source)
        rows = ({self.question: problem.prompt, **problem.columns} for problem in source)
        return [self.row(row, problem.place) for row, problem in zip(rows, source, strict=True)]

    def others(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The columns that the task does not use itself."""
        return {k: v for k, v in row.items() if k not in (self.question, self.solution, *self.reserved)}

    def _check_columns(self, source: Problems) -> None:
        if self.solution not in source.column_names:
            near = near_column(self.solution, source.column_names)
            raise ConfigError(
                f'task: {self.path} has no column "{self.solution}" for the solution; it has '
                f"{', '.join([self.question, *source.column_names])}.{near} Name it with solution."
            )
