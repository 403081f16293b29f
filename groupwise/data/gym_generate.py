"""Runs reasoning-gym's generators in a process of their own: a JSON request on standard input, rows on standard output.

Alone in its process for two reasons: some of its tasks iterate over sets of text, so their problems depend on Python's
hash seed, which only a new process can fix; and the package with its data takes a second to import. It is started by
its path and imports nothing of groupwise.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MAX_MISSES = 2000
"""Problems made in a row that bring nothing new, before the task counts as exhausted."""

NOT_A_TASK = frozenset({"composite"})
"""A mixture of the others: a recipe names one task."""

CHUNK = 500
"""Some tasks make all their problems at once."""


def encode(value: Any) -> Any:
    """A value as JSON that `decode` turns back exactly: tuples, and dicts whose keys are no text, are marked."""
    if isinstance(value, tuple):
        return {"__tuple__": [encode(each) for each in value]}
    if isinstance(value, list):
        return [encode(each) for each in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: encode(each) for key, each in value.items()}
        return {"__items__": [[encode(key), encode(each)] for key, each in value.items()]}
    return value


def decode(value: Any) -> Any:
    """What `encode` was given."""
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"__tuple__"}:
        return tuple(decode(each) for each in value["__tuple__"])
    if value.keys() == {"__items__"}:
        return {decode(key): decode(each) for key, each in value["__items__"]}
    return {key: decode(each) for key, each in value.items()}


def gym() -> Any:
    """The package reasoning-gym, with `sat.py` instead of pycosat where that is missing: it has to be compiled."""
    if importlib.util.find_spec("pycosat") is None:
        spec = importlib.util.spec_from_file_location("pycosat", Path(__file__).with_name("sat.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules["pycosat"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["pycosat"])
    import reasoning_gym.factory

    return reasoning_gym


def problem(task: str, params: dict[str, Any]) -> dict[str, Any] | None:
    """What does not exist, the task or a parameter of it, and what does; None where all is well."""
    datasets = gym().factory.DATASETS
    if task not in datasets or task in NOT_A_TASK:
        names = sorted(set(datasets) - NOT_A_TASK)
        return {"unknown": task, "what": "task", "known": names}
    known = sorted({field.name for field in dataclasses.fields(datasets[task][1])} - {"seed", "size"})
    unknown = sorted(params.keys() - set(known))
    return {"unknown": unknown[0], "what": "parameter", "known": known} if unknown else None


def make(task: str, params: dict[str, Any], seed: int, size: int) -> Any:
    """The data set of a task."""
    return gym().create_dataset(
        task, seed=seed, size=size, **{name: _as_tuple(value) for name, value in params.items()}
    )


def entries(task: str, params: dict[str, Any], seed: int) -> Iterator[dict[str, Any]]:
    """Problems without end, in chunks with a seed each."""
    number = 0
    while True:
        data = make(task, params, seed * 100_003 + number, CHUNK)
        for index in range(min(CHUNK, len(data))):
            yield data[index]
        number += 1


def split_of(question: str) -> str:
    """A fifth of all questions are held out, by their hash: whatever the seed and the size."""
    return "eval" if int.from_bytes(hashlib.sha256(question.encode()).digest()[:8]) < 2**64 // 5 else "train"


def rows(request: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """`train` and `eval` rows with question, answer and the whole entry as JSON text; no question twice."""
    wanted = {"train": request["size"], "eval": request["eval_size"]}
    found: dict[str, dict[str, dict[str, Any]]] = {"train": {}, "eval": {}}
    source = entries(request["task"], request["params"], request["seed"])
    misses = 0
    while misses < MAX_MISSES and any(len(found[split]) < wanted[split] for split in wanted):
        entry = next(source)
        question, split = entry["question"], split_of(entry["question"])
        is_new = len(found[split]) < wanted[split] and question not in found[split]
        misses = 0 if is_new else misses + 1
        if is_new:
            row = {"question": question, "answer": entry["answer"], "entry": json.dumps(encode(entry))}
            found[split][question] = row
    return {split: list(each.values()) for split, each in found.items()}


def _as_tuple(value: Any) -> Any:
    """YAML and JSON know lists only, and the configurations of the gym want tuples where they want several values."""
    return tuple(_as_tuple(each) for each in value) if isinstance(value, list) else value


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """`rows`, or `wrong` (a name that does not exist), or `refused` (the task's error for a parameter's value)."""
    if wrong := problem(request["task"], request["params"]):
        return {"wrong": wrong}
    try:
        return {"rows": rows(request)}
    except (AssertionError, ValueError, TypeError) as error:  # how its configurations refuse a value
        return {"refused": str(error) or type(error).__name__}


def main() -> None:
    with contextlib.redirect_stdout(sys.stderr):  # some tasks print dots while they work
        found = answer(json.loads(sys.stdin.read()))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
