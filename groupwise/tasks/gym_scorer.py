"""Scores one answer with reasoning-gym's own scorer, in a worker: some of these scorers evaluate the answer."""

from __future__ import annotations

import functools
import json
from typing import Any

from groupwise.data.gym_generate import decode, make


def score(task: str, params: str, entry: str, answer: str) -> float:
    """The score, 0 to 1, of an answer to the problem `entry` of `task` made with `params` (both JSON text)."""
    return float(_data(task, params).score_answer(answer, entry=decode(json.loads(entry))))


@functools.lru_cache(maxsize=4)
def _data(task: str, params: str) -> Any:
    return make(task, json.loads(params), seed=0, size=10)
