"""The reward for reasoning in steps: markers of steps, counted up to a limit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.extract import tagged
from groupwise.rewards.parameters import check_count, check_tag

_MARKER = re.compile(
    r"^\W*step\s+\d+|^\s*(?:\d{1,2}[.)]|[-*•])\s+\S|^\W*(?:first|second|third|next|then|finally|lastly)(?:ly)?\b,?"
    r"|(?<=[.!?])\s+(?:first|second|third|next|then|finally|lastly)(?:ly)?,",
    re.IGNORECASE | re.MULTILINE,
)


@dataclass(frozen=True)
class ReasoningSteps:
    """min(1, markers / wanted): "Step 2", "1.", "- ", "First,", "Finally," at the start of a line or sentence.

    It counts form, which is easily faked ("- a" three times): give it a small weight, or a gate. With `tag`, steps
    count inside the last `<tag>...</tag>` only.
    """

    __name__: ClassVar[str] = "reasoning_steps"
    highest: ClassVar[float] = 1.0

    wanted: int = 3
    tag: str | None = None

    def __post_init__(self) -> None:
        check_count("reasoning_steps", "wanted", self.wanted)
        if self.tag is not None:
            check_tag("reasoning_steps", self.tag)

    def __call__(self, completions: Sequence[CompletionValue]) -> list[float]:
        texts = [completion_text(completion) for completion in completions]
        parts = [text if self.tag is None else tagged(text, self.tag) or "" for text in texts]
        return [min(1.0, len(_MARKER.findall(part)) / self.wanted) for part in parts]
