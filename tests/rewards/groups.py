"""Groups for the tests of the rewards, from texts alone."""

from __future__ import annotations

from groupwise.types import Completion, Group, Problem, Prompt


def make_group(prompt: Prompt, texts: list[str], draw: int = 0, **columns: object) -> Group:
    """A group with these completions; each has one token id a word and an end token 0."""
    completions = tuple(
        Completion(
            token_ids=(*range(1, len(text.split()) + 1), 0),
            rollout_logprob=(-1.0,) * (len(text.split()) + 1),
            stop_reason="stop",
            policy_version=0,
            text=text,
        )
        for text in texts
    )
    return Group(draw=draw, problem=Problem(draw, prompt, columns), prompt_ids=(5, 6), completions=completions)


CHAT: Prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
