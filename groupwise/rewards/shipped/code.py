"""The reward for a program that passes its tests: 1 or 0, or the share that it passes. Programs run in the sandbox."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from groupwise.chat import CompletionValue, completion_text
from groupwise.errors import quoted
from groupwise.rewards.answer_reward import LogWhy, Verdict, split_reasons
from groupwise.rewards.gold import is_missing
from groupwise.rewards.parameters import ask_for_columns, check_count, check_number, check_word
from groupwise.rewards.sandbox.backend_choice import pool_of
from groupwise.rewards.sandbox.limits import Limits
from groupwise.rewards.sandbox.programs import Programs
from groupwise.rewards.sandbox.tests import Asserts, Prints, Test, check_tests, read_tests

_BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)^[ \t]*```[ \t]*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Code:
    """1 where the last fenced Python block of a completion passes the tests of its problem's `column`, otherwise 0.

    Tests: see `sandbox.tests`. With `score` "share", the share of the tests passed. A problem without tests (None) is
    unscored; a completion without a block gets 0.
    """

    __name__: ClassVar[str] = "code"
    highest: ClassVar[float] = 1.0
    answer_column: ClassVar[None] = None
    """Tests are no answer that a completion could give."""

    column: str = "tests"
    entry_point: str | None = None
    """Column with the name of the function that `check(candidate)` is called with (HumanEval)."""
    score: Literal["all", "share"] = "all"
    limit_s: float = 5.0
    """Seconds for one test."""
    memory_mb: int = 512
    num_workers: int | None = None
    """Programs that run at a time; null is one a core, at most 8."""

    def __post_init__(self) -> None:
        check_word("code", "score", self.score, ("all", "share"))
        check_number("code", "limit_s", self.limit_s, least=0.01)
        check_count("code", "memory_mb", self.memory_mb)
        if self.num_workers is not None:
            check_count("code", "num_workers", self.num_workers)
        ask_for_columns(self, "code", [self.column, *([self.entry_point] if self.entry_point else [])])

    @functools.cached_property
    def programs(self) -> Programs:
        """The sandboxes for programs, made on first use."""
        return Programs(self.limit_s, Limits(memory_mb=self.memory_mb), self.num_workers)

    def check_sandbox(self) -> None:
        """Raise `ConfigError` where there is none, without starting any."""
        self.programs.check_sandbox()

    def load(self) -> None:
        """Start the sandboxes, so that a machine without one is known before a rollout."""
        self.programs.start()

    def __call__(
        self, completions: Sequence[CompletionValue], log_why: LogWhy | None = None, **columns: Sequence[Any]
    ) -> list[float | None]:
        names = columns[self.entry_point] if self.entry_point else [None] * len(completions)
        tests = [
            None if is_missing(value) else read_tests(value, name)
            for value, name in zip(columns[self.column], names, strict=True)
        ]
        with pool_of(self.programs.num_ready) as threads:
            verdicts = threads.map(self._verdict, map(completion_text, completions), tests)
            return split_reasons(list(verdicts), log_why)

    def check_row(self, columns: Mapping[str, Any]) -> None:
        """Raise `DataError` for a problem whose tests cannot be read."""
        if not is_missing(columns[self.column]):
            check_tests(read_tests(columns[self.column]))

    def _verdict(self, text: str, tests: list[Test] | None) -> Verdict:
        if tests is None:
            return None, "no tests in the data"
        source = last_python_block(text)
        if source is None:
            return 0.0, "no fenced Python block"
        failures = self._failures(source, tests)
        num_passed = len(tests) - sum(failure is not None for failure in failures)
        why = next((f"; test {k + 1}: {failure}" for k, failure in enumerate(failures) if failure is not None), "")
        reward = num_passed / len(tests) if self.score == "share" else float(num_passed == len(tests))
        return reward, f"{num_passed} of {len(tests)} tests passed{why}"

    def _failures(self, source: str, tests: list[Test]) -> list[str | None]:
        """The failure of each test, None where it passed; after one that decides, or that timed out, none is run."""
        failures: list[str | None] = []
        for kind in _runs(tests):
            failures += self._failures_of_a_run(source, kind)
            is_over = any(f is not None and (self.score == "all" or "timed out" in f) for f in failures)
            if is_over:
                break
        return failures + ["not run"] * (len(tests) - len(failures))

    def _failures_of_a_run(self, source: str, tests: list[Test]) -> list[str | None]:
        first = tests[0]
        if isinstance(first, Prints):
            return [self._misprint(source, first)]
        sources = [test.source for test in tests if isinstance(test, Asserts)]
        return self.programs.check(source, sources, first.entry_point)

    def _misprint(self, source: str, test: Prints) -> str | None:
        printed = self.programs.run(source, test.stdin)
        if printed.error is not None:
            return printed.error
        given, wanted = _lines(printed.text), _lines(test.stdout)
        return None if given == wanted else f"printed {quoted(printed.text, 60)}"


def last_python_block(text: str) -> str | None:
    """The last closed block fenced by ``` whose language is Python or not given; None without one."""
    blocks = [code for language, code in _BLOCK.findall(text) if language.lower() in ("python", "py", "python3", "")]
    return blocks[-1] if blocks else None


def _runs(tests: list[Test]) -> list[list[Test]]:
    """Tests that share a program's process: neighbours that assert with one entry point; one that prints is alone."""
    runs: list[list[Test]] = []
    for test in tests:
        last = runs[-1][0] if runs else None
        is_same = isinstance(test, Asserts) and isinstance(last, Asserts) and last.entry_point == test.entry_point
        if is_same:
            runs[-1].append(test)
        else:
            runs.append([test])
    return runs


def _lines(text: str) -> list[str]:
    """Lines without the white space at their ends, and without empty ones at the end of all."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
