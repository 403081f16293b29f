"""`reasoning-gym:TASK`: problems of the package reasoning-gym, the same on every machine and in every run."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from groupwise.errors import DataError, did_you_mean

PREFIX = "reasoning-gym:"

TIMEOUT_S = 900.0
"""For all problems of a task: the slowest take half a second for each."""

Rows = list[dict[str, Any]]


def generate(task: str, params: dict[str, Any], *, size: int, eval_size: int, seed: int) -> dict[str, Rows]:
    """The splits `train` and `eval`: rows with `question`, `answer` (None where there are many) and `entry`.

    `entry` is the gym's own record of the problem, as JSON text: what its scorer needs.

    Raises:
        DataError: no such task or parameter, a value that the task refuses, or the package is not installed.
    """
    installed_version(task)
    request = {"task": task, "params": params, "size": size, "eval_size": eval_size, "seed": seed}
    return _generate(json.dumps(request, sort_keys=True))


def installed_version(task: str) -> str:
    """The version of the package, `unknown` where it has no record of one; `DataError` where it is not installed."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise DataError(
            f'{PREFIX}{task} needs the package reasoning-gym: pip install "groupwise[reasoning]". Where there is no C '
            'compiler: pip install "groupwise[reasoning-parts]", then pip install --no-deps reasoning-gym==0.1.25.'
        )
    try:
        return importlib.metadata.version("reasoning-gym")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def load(name: str, split: str) -> tuple[Rows, dict[str, Any]]:
    """Rows of `reasoning-gym:TASK?size=500&eval_size=100&seed=0&...` with the question as the user's message."""
    task, _, query = name.removeprefix(PREFIX).partition("?")
    options = {key: _value(value) for key, _, value in (pair.partition("=") for pair in query.split("&") if pair)}
    sizes = {key: options.pop(key, default) for key, default in (("size", 500), ("eval_size", 100), ("seed", 0))}
    made = generate(task, options, **sizes)
    if split not in made:
        raise DataError(f"{PREFIX}{task} has no split {split!r}; it has: {', '.join(made)}.")
    rows = [
        {"prompt": [{"role": "user", "content": row["question"]}], "answer": row["answer"], "entry": row["entry"]}
        for row in made[split]
    ]
    return rows, {"task": task, "reasoning_gym": installed_version(task)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


@functools.lru_cache(maxsize=4)
def _generate(request: str) -> dict[str, Rows]:
    task = PREFIX + json.loads(request)["task"]
    script = Path(__file__).with_name("gym_generate.py")
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", str(script)],
            input=request,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
        )
    except subprocess.TimeoutExpired:
        raise DataError(f"{task} took over {TIMEOUT_S:.0f} s to make its problems. Ask for fewer: size.") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"{task} failed while it made its problems: {last}")
    return _checked(task, json.loads(done.stdout.splitlines()[-1]))


def _checked(task: str, answer: dict[str, Any]) -> dict[str, Rows]:
    if wrong := answer.get("wrong"):
        near = did_you_mean(wrong["unknown"], wrong["known"])
        listed = "" if near else f" There are: {', '.join(wrong['known'])}."
        raise DataError(f'{task}: there is no {wrong["what"]} "{wrong["unknown"]}".{near}{listed}')
    if "refused" in answer:
        raise DataError(f"{task} refuses its parameters: {answer['refused']}.")
    for split, rows in answer["rows"].items():
        if not rows:
            raise DataError(f"{task} has no problem for the split {split}: it knows too few. Choose other parameters.")
    return dict(answer["rows"])
