"""Prints, for every task of reasoning-gym, what its own answers score along our path, but for the sandbox; as JSON.

A program of its own: the hash seed is fixed as in the worker, and the package's warnings are its own.
"""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from groupwise.data.gym_generate import NOT_A_TASK, decode, gym, rows
from groupwise.tasks.asking import Asking
from groupwise.tasks.gym_scorer import score

WITHOUT_ANSWER = {
    "graph_color": lambda metadata: json.dumps({str(k): v for k, v in metadata["possible_answer"].items()}),
    "propositional_logic": lambda metadata: metadata["example_answer"],
    "rubiks_cube": lambda metadata: metadata["example_correct_answer"],
}
"""Tasks with many right answers: where their record keeps one."""


def oracle(task: str, row: dict[str, Any]) -> str | None:
    if row["answer"] is not None:
        return str(row["answer"])
    find = WITHOUT_ANSWER.get(task)
    return None if find is None else find(decode(json.loads(row["entry"]))["metadata"])


def score_or_error(task: str, entry: str, answer: str) -> float | str:
    """The worker turns an exception into an error, and the reward takes that for 0."""
    try:
        return score(task, "{}", entry, answer)
    except Exception as error:
        return type(error).__name__


def scored(task: str) -> dict[str, Any]:
    """Scores of the gold answers and of nonsense, and the answers' kinds."""
    made = rows({"task": task, "params": {}, "seed": 0, "size": 2, "eval_size": 1})
    asking, scores, nonsense = Asking(place="tag"), [], []
    for row in [*made["train"], *made["eval"]]:
        gold = oracle(task, row)
        if gold is not None:
            answer = asking.answer(f"well, <answer>{gold}</answer>")
            assert answer is not None, task
            scores.append(score(task, "{}", row["entry"], answer))
        nonsense.append(score_or_error(task, row["entry"], "zzz"))
    return {"rows": len(made["train"]) + len(made["eval"]), "gold": scores, "nonsense": nonsense}


def main() -> None:
    with contextlib.redirect_stdout(sys.stderr):
        found = {task: scored(task) for task in sys.argv[1:] or sorted(set(gym().factory.DATASETS) - NOT_A_TASK)}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
