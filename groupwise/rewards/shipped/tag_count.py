"""The reward for tags on their own: the share of them that occur exactly once, in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from groupwise.chat import CompletionValue, completion_text
from groupwise.rewards.opened import after
from groupwise.rewards.parameters import check_think_in_prompt, checked_tags


@dataclass(frozen=True)
class TagCount:
    """The share of the 2 x len(tags) opening and closing tags that occur exactly once.

    The first foothold for a model that never writes the form: reward format in its soft mode also wants their order.
    Tags that the prompt opened count as written. `think_in_prompt` sets whether it opened the first of `tags`.
    """

    __name__: ClassVar[str] = "tag_count"
    highest: ClassVar[float] = 1.0

    tags: Sequence[str] = ("think", "answer")
    think_in_prompt: bool | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", checked_tags("tag_count", self.tags))
        check_think_in_prompt("tag_count", self.think_in_prompt)

    def __call__(self, completions: Sequence[CompletionValue]) -> list[float]:
        markers = [marker for tag in self.tags for marker in (f"<{tag}>", f"</{tag}>")]
        start = f"<{self.tags[0]}>" if self.think_in_prompt else ""
        texts = [after(start, completion_text(completion)) for completion in completions]
        return [sum(text.count(marker) == 1 for marker in markers) / len(markers) for text in texts]
