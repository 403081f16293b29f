"""Three prompts as the model gets them, and checks of their length."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

from groupwise.chat import decode_completion, encode_prompt
from groupwise.check.finding import Finding, Level
from groupwise.lifecycle.build import RunParts
from groupwise.policy.bounds import context_length

CUT_FAIL = 0.1
"""Share of prompts that are cut or left out. A cut prompt has lost its beginning: the instruction, or the front of the
chat template. One in ten is no longer an oddity of the data."""


@dataclass(frozen=True, slots=True)
class ShownPrompt:
    """A prompt with its special tokens, decoded from the very ids that the engine gets."""

    which: str
    place: str
    text: str
    num_tokens: int
    is_truncated: bool


@dataclass(frozen=True, slots=True)
class Lengths:
    """Prompt lengths in tokens, after cutting."""

    shortest: int
    median: float
    longest: int


def lengths(run: RunParts) -> Lengths:
    counts = [len(run.problems[row].prompt_ids) for row in range(len(run.problems))]
    return Lengths(min(counts), median(counts), max(counts))


def shown_prompts(run: RunParts) -> list[ShownPrompt]:
    """The shortest, the middle and the longest prompt; fewer where the data has fewer."""
    problems = run.problems
    by_length = sorted(range(len(problems)), key=lambda row: (len(problems[row].prompt_ids), row))
    chosen = {by_length[0]: "shortest", by_length[-1]: "longest", by_length[len(by_length) // 2]: "middle"}
    return [_shown(run, row, which) for row, which in sorted(chosen.items(), key=lambda c: by_length.index(c[0]))]


def _shown(run: RunParts, row: int, which: str) -> ShownPrompt:
    prepared = run.problems[row]
    text = decode_completion(run.policy.tokenizer, prepared.prompt_ids, skip_special_tokens=False)
    return ShownPrompt(which, prepared.problem.label, text, len(prepared.prompt_ids), prepared.is_truncated)


def prompt_cut(run: RunParts) -> list[Finding]:
    """Prompts over `max_prompt_length`."""
    problems, limit = run.problems, run.config.max_prompt_length
    total, found = len(problems.problems), []
    for count, what in ((problems.num_truncated, "lose their beginning"), (problems.num_dropped, "are left out")):
        if count:
            level: Level = "fail" if count / total >= CUT_FAIL else "warn"
            sentence = (
                f"{count} of {total} prompts ({count / total:.0%}) are over max_prompt_length {limit} and {what}."
            )
            found.append(Finding("prompt_cut", level, sentence, _remedy(run)))
    return found


def _remedy(run: RunParts) -> str:
    """The limit that cuts no prompt, or the largest that the model's context has room for."""
    config = run.config
    longest = max(
        len(
            encode_prompt(
                run.policy.tokenizer,
                problem.prompt,
                system_prompt=config.system_prompt,
                chat_template_kwargs=config.chat_template_kwargs,
            )
        )
        for problem in run.inputs.problems
    )
    context = context_length(run.policy.model.config)
    room = None if context is None else context - config.max_completion_length
    if room is None or longest <= room:
        return f"Set max_prompt_length: {longest}, the longest prompt."
    return f"Set max_prompt_length: {room}, all that the context of {context} has room for, and overlong_prompts: drop."


CHECKS: tuple[Callable[[RunParts], list[Finding]], ...] = (prompt_cut,)
