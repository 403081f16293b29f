"""The tools of an environment in the prompts of its problems, and their calls in its turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from groupwise.chat import Tokenizer
from groupwise.environments.pool import EnvironmentPool
from groupwise.tool_calls import ToolChat
from groupwise.types import Call, Problem, Prompt


@dataclass(frozen=True)
class ShownTools:
    """Shows each problem the tools of its environment."""

    pool: EnvironmentPool
    tokenizer: Tokenizer
    template_kwargs: Mapping[str, Any]
    system_prompt: str | None

    @cached_property
    def chat(self) -> ToolChat:
        """How the tokenizer's chats show tools."""
        return ToolChat.of(self.tokenizer, self.template_kwargs)

    def __call__(self, problem: Problem) -> tuple[Prompt, Mapping[str, Any]]:
        """The prompt of a problem with its tools, and the arguments of the chat template then."""
        schemas = self.pool.pool_of(problem).schemas
        if not schemas:
            return problem.prompt, self.template_kwargs
        return self.chat.prompt(problem.prompt, schemas, self.system_prompt)

    def calls(self, problem: Problem, text: str, ids: Sequence[int], before: Sequence[int]) -> tuple[Call, ...]:
        """The calls in a turn of these ids after those of `before`; none where there are no tools."""
        schemas = self.pool.pool_of(problem).schemas
        return self.chat.calls(text, ids, before, schemas) if schemas else ()
