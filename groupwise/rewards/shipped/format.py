"""The reward for answers written in XML-style tags, such as `<think>...</think><answer>...</answer>`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.opened import after
from groupwise.rewards.parameters import check_think_in_prompt, check_word, checked_tags

Mode = Literal["strict", "soft"]


@dataclass(frozen=True)
class Format:
    """Whether a completion is written in `tags`, in their order.

    strict: 1 when the whole completion is the tagged parts with nothing but white space around and between them, each
    tag opened and closed once; otherwise 0.

    soft: the share of the 2 x len(tags) opening and closing tags that occur exactly once and after all those counted
    before them. Text around the tags is allowed. It grows in steps, so a model that never writes the whole form still
    gets a signal; a tag written twice does not count.

    Tags that the prompt opened count as written. `think_in_prompt` sets whether it opened the first of `tags`.
    """

    __name__: ClassVar[str] = "format"
    highest: ClassVar[float] = 1.0

    tags: Sequence[str] = ("think", "answer")
    mode: Mode = "strict"
    think_in_prompt: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", checked_tags("format", self.tags))
        check_word("format", "mode", self.mode, get_args(Mode))
        check_think_in_prompt("format", self.think_in_prompt)

    def __call__(self, completions: Sequence[CompletionValue]) -> list[float]:
        score = self._strict if self.mode == "strict" else self._soft
        start = f"<{self.tags[0]}>" if self.think_in_prompt else ""
        return [score(after(start, completion_text(completion))) for completion in completions]

    @property
    def _markers(self) -> list[str]:
        return [marker for tag in self.tags for marker in (f"<{tag}>", f"</{tag}>")]

    def _strict(self, text: str) -> float:
        if any(text.count(marker) != 1 for marker in self._markers):
            return 0.0
        parts = r"\s*".join(f"<{tag}>.*</{tag}>" for tag in self.tags)
        return float(re.fullmatch(rf"\s*{parts}\s*", text, re.DOTALL) is not None)

    def _soft(self, text: str) -> float:
        counted, end = 0, 0
        for marker in self._markers:
            start = text.find(marker)
            if start >= end and text.count(marker) == 1:
                counted, end = counted + 1, start + len(marker)
        return counted / len(self._markers)
