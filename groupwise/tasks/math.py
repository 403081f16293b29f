"""`math`: competition problems whose solutions put the answer into \\boxed{}, from any data set of that form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groupwise.data.files import place_in
from groupwise.errors import ConfigError, DataError
from groupwise.rewards import resolve_rewards
from groupwise.rewards.extract import boxed
from groupwise.rewards.function import RewardFunction
from groupwise.tasks.asking import Place
from groupwise.tasks.hub_tasks import FromHub


@dataclass(frozen=True)
class Math(FromHub):
    """1 for an answer that is mathematically equal to the boxed one (reward `math`), otherwise 0.

    The default is the data set of Hendrycks et al. (arXiv 2103.03874).
    """

    place: Place = "boxed"
    path: str = "DigitalLearningGmbH/MATH-lighteval"
    question: str = "problem"
    solution: str = "solution"

    def __post_init__(self) -> None:
        super().__post_init__()
        known = ("auto", "tag", "boxed", "hashes", "whole")
        if self.place not in known:
            raise ConfigError(f"task math: place is {self.place!r}; expected one of {', '.join(known)}.")

    def row(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        gold = boxed(str(row[self.solution]))
        if gold is None:
            raise DataError(f'{place_in(self.path, place)}, column "{self.solution}": there is no \\boxed{{}} answer.')
        return {"prompt": self.prompt(row[self.question]), "answer": gold, **self.others(row)}

    def rewards(self) -> list[RewardFunction]:
        return resolve_rewards([{"name": "math", "place": self.place}])
