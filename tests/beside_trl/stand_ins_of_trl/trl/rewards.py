"""Rewards under the names and with the arguments of TRL's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

Chats = Sequence[Sequence[dict[str, str]]]


def accuracy_reward(completions: Chats, solution: Sequence[str], **kwargs: Any) -> list[float | None]:
    return [float(c[0]["content"].strip() == s.strip("$")) for c, s in zip(completions, solution, strict=True)]


def think_format_reward(completions: Chats, **kwargs: Any) -> list[float]:
    return [float(re.fullmatch(r"<think>.*</think>.*", c[0]["content"], re.DOTALL) is not None) for c in completions]


def get_soft_overlong_punishment(max_completion_len: int, soft_punish_cache: int) -> Callable[..., list[float]]:
    start = max_completion_len - soft_punish_cache

    def soft_overlong_punishment_reward(completion_ids: Sequence[Sequence[int]], **kwargs: Any) -> list[float]:
        return [-min(max((len(ids) - start) / soft_punish_cache, 0.0), 1.0) for ids in completion_ids]

    return soft_overlong_punishment_reward
