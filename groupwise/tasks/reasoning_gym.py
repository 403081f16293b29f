"""`reasoning-gym:TASK`: a task of the package reasoning-gym with its own scorer as the reward."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from groupwise.chat import CompletionValue, completion_text
from groupwise.data.gym import generate, installed_version
from groupwise.errors import ConfigError
from groupwise.rewards.answer_reward import LogWhy
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.sandbox import Sandboxed
from groupwise.tasks.asking import Asking, Place, check_whole
from groupwise.tasks.generated import Split

SCORER = "groupwise.tasks.gym_scorer:score"

TIMEOUT_S = 10.0
"""For one answer."""

READ_VERSION = "0.1.25"
"""The version whose scorers were read. Those of any other may evaluate anything."""

EVALUATE = frozenset(
    {
        *("binary_matrix", "bitwise_arithmetic", "n_queens", "number_sorting", "spiral_matrix", "string_insertion"),
        *("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"),
    }
)
"""Tasks whose scorers evaluate the answer, or a part of the problem: the first six by `eval`, the others by sympy's
`parse_expr`, which ends in `eval` as well. All others compare, count, and read numbers and JSON."""


def evaluates(task: str) -> bool:
    """Whether the scorer of a task may run code in an answer: known for one version, assumed for all others."""
    return installed_version(task) != READ_VERSION or task in EVALUATE


@dataclass(frozen=True)
class ReasoningGym(Asking):
    """The score that the task itself gives, 0 to 1; many tasks give partial credit, `strict` takes only full marks."""

    place: Place = "tag"
    task: str = ""
    """Name of the task in the gym."""
    strict: bool = False
    """1 for full marks and 0 for anything else."""
    size: int = 500
    """Problems to train on; some tasks have fewer."""
    eval_size: int = 100
    seed: int = 0
    params: dict[str, Any] = field(default_factory=dict)
    """Parameters of the task itself."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.task:
            raise ConfigError('task: reasoning-gym needs a name, such as "reasoning-gym:letter_counting".')
        if not isinstance(self.strict, bool):
            raise ConfigError(f"task: strict is {self.strict!r}; expected true or false.")
        for name, least in (("size", 1), ("eval_size", 1), ("seed", 0)):
            check_whole("task", name, getattr(self, name), least)

    def rows(self, split: Split) -> list[dict[str, Any]]:
        made = generate(self.task, self.params, size=self.size, eval_size=self.eval_size, seed=self.seed)[split]
        return [
            {"prompt": self.prompt(row["question"]), "answer": row["answer"], "entry": row["entry"]} for row in made
        ]

    def rewards(self) -> list[RewardFunction]:
        return [RewardFunction.of(Score(self), name="reasoning_gym")]


class Score:
    """The reward: completions' answers, scored in workers: in a sandbox where there is one, and always where the scorer
    evaluates them.

    A completion without an answer at `place` gets 0. So does one whose answer the scorer breaks off at, by an error or
    by its time limit: the scorers take every answer of their own tasks, so the fault is the answer's. How many those
    were is logged as `reasoning_gym/unscorable`.
    """

    answer_column = "answer"
    """Column of the right answer; the scorer itself reads the column `entry`."""

    def __init__(self, task: ReasoningGym) -> None:
        self.task = task
        self.params = json.dumps(task.params, sort_keys=True)
        self._scorer = Sandboxed(SCORER, timeout_s=TIMEOUT_S, needs_sandbox=evaluates(task.task))

    def __call__(
        self,
        completions: Sequence[CompletionValue],
        entry: Sequence[str],
        log_metric: Any = None,
        log_why: LogWhy | None = None,
    ) -> list[float | None]:
        answers = [self.task.answer(completion_text(completion)) for completion in completions]
        rows = [
            {"task": self.task.task, "params": self.params, "entry": each, "answer": answer}
            for each, answer in zip(entry, answers, strict=True)
            if answer is not None
        ]
        outcomes = iter(self._scorer(rows) if rows else [])
        found = [None if answer is None else next(outcomes) for answer in answers]
        if log_metric is not None:
            log_metric("reasoning_gym/unscorable", sum(o is not None and o.error is not None for o in found))
        if log_why is not None:
            log_why([_why(answer, outcome) for answer, outcome in zip(answers, found, strict=True)])
        return [self._reward(outcome) for outcome in found]

    def _reward(self, outcome: Any) -> float:
        if outcome is None or outcome.error is not None:
            return 0.0
        value = min(max(float(outcome.value), 0.0), 1.0)
        return float(value >= 1.0) if self.task.strict else value


def _why(answer: str | None, outcome: Any) -> str:
    if answer is None:
        return "no answer found"
    return f"{answer[:80]!r}: {outcome.error or outcome.value}"
