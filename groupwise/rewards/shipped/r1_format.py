"""DeepSeek-R1's format reward: `<think>...</think><answer>...</answer>` and nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.opened import after
from groupwise.rewards.parameters import check_think_in_prompt

_WHOLE = re.compile(r"\s*<think>(?P<think>.*?)</think>\s*<answer>(?P<answer>.*?)</answer>\s*", re.DOTALL)
_MARKERS = re.compile(r"</?(?:think|answer)>")


@dataclass(frozen=True)
class R1Format:
    """1 when the whole completion is a reasoning and an answer in their tags, neither of them empty; otherwise 0.

    DeepSeek-R1 (2501.12948), section 2.2.2: the thinking process is put between the think tags. Differs from reward
    format: empty parts get 0. A `<think>` that the prompt opened counts as written; `think_in_prompt` sets
    whether it did.
    """

    __name__: ClassVar[str] = "r1_format"
    highest: ClassVar[float] = 1.0
    tags: ClassVar[Sequence[str]] = ("think", "answer")

    think_in_prompt: bool | None = None

    def __post_init__(self) -> None:
        check_think_in_prompt("r1_format", self.think_in_prompt)

    def __call__(self, completions: Sequence[CompletionValue]) -> list[float]:
        start = "<think>" if self.think_in_prompt else ""
        return [self._reward(after(start, completion_text(completion))) for completion in completions]

    def _reward(self, text: str) -> float:
        match = _WHOLE.fullmatch(text)
        if match is None:
            return 0.0
        parts = match["think"], match["answer"]
        return float(all(part.strip() and not _MARKERS.search(part) for part in parts))
