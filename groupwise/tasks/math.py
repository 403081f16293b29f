"""`math`: competition problems whose solutions put the answer into \\boxed{}, from any data set of that form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groupwise.errors import DataError
from groupwise.rewards import resolve_rewards
from groupwise.rewards.extract import boxed
from groupwise.rewards.function import RewardFunction
from groupwise.tasks.asking import Place
from groupwise.tasks.hub import FromHub


@dataclass(frozen=True)
class Math(FromHub):
    """1 for an answer that is mathematically equal to the boxed one (reward `math`), otherwise 0.

    The default is the data set of Hendrycks et al. (arXiv 2103.03874).
    """

    place: Place = "boxed"
    path: str = "DigitalLearningGmbH/MATH-lighteval"
    question: str = "problem"
    solution: str = "solution"

    def row(self, row: Mapping[str, Any], number: int) -> dict[str, Any]:
        gold = boxed(str(row[self.solution]))
        if gold is None:
            raise DataError(f'Row {number} of {self.path}, column "{self.solution}": there is no \\boxed{{}} answer.')
        return {"prompt": self.prompt(row[self.question]), "answer": gold, **self.others(row)}

    def rewards(self) -> list[RewardFunction]:
        return resolve_rewards([{"name": "math"}])
