"""`gsm8k`: word problems with a number as the answer, from any data set whose solutions end in "#### 42"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groupwise.data.files import place_in
from groupwise.errors import DataError
from groupwise.rewards.extract import after_hashes
from groupwise.rewards.function import RewardFunction
from groupwise.rewards.gold import gold_number
from groupwise.tasks.asking import Place
from groupwise.tasks.hub_tasks import FromHub


@dataclass(frozen=True)
class GSM8K(FromHub):
    """1 for the right number at `place`, otherwise 0. The data set is that of Cobbe et al. (arXiv 2110.14168)."""

    place: Place = "tag"
    path: str = "openai/gsm8k"
    subset: str | None = "main"
    question: str = "question"
    solution: str = "answer"

    def row(self, row: Mapping[str, Any], place: str) -> dict[str, Any]:
        if after_hashes(str(row[self.solution])) is None:
            raise DataError(
                f'{place_in(self.path, place)}, column "{self.solution}": there is no "####" before the answer.'
            )
        try:
            answer = str(gold_number("number", str(row[self.solution])))
        except DataError as error:
            raise DataError(f'{place_in(self.path, place)}, column "{self.solution}": {error}') from error
        return {"prompt": self.prompt(row[self.question]), "answer": answer, **self.others(row)}

    def rewards(self) -> list[RewardFunction]:
        return [RewardFunction.of(self.number(), name="gsm8k")]
