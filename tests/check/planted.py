"""A tiny model that recites, so that a mistake can be planted in anything around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from tiny import EOS, tiny_model, tiny_tokenizer, with_lora

from groupwise.check.result import Result
from groupwise.check.run_checks import check
from groupwise.config import GRPOConfig, Recipe
from groupwise.data import load_problems
from groupwise.lifecycle.build import RunParts, make_policy, make_scorer
from groupwise.lifecycle.inputs import RunInputs, with_environment
from groupwise.policy.bundle import PolicyBundle
from groupwise.rewards import resolve_rewards
from groupwise.rollout.engine import Capabilities
from groupwise.rollout.scripted import ScriptedEngine

WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight")
ROWS = [{"prompt": f"write {word} in digits", "answer": str(number)} for number, word in enumerate(WORDS, start=1)]
SETTINGS: dict[str, Any] = {
    "prompts_per_step": 4,
    "num_generations": 4,
    "max_completion_length": 24,
    "max_steps": 3,
    "dtype": "float32",
    "use_cpu": True,
    "beta": 0.0,
    "learning_rate": 1e-3,
}

Say = Callable[[int, int], str]
"""(number of the group, number of the completion) -> what the model says."""


def digits(group: int, index: int) -> str:
    """Every digit is someone's answer: right now and then, with more or fewer words around it."""
    return "so " * index + str((group + index) % len(WORDS) + 1)


def right(completions: Sequence[str], answer: Sequence[str]) -> list[float]:
    """1 where the completion ends in the answer."""
    return [float(text.rstrip(".").endswith(gold)) for text, gold in zip(completions, answer, strict=True)]


@cache
def policy() -> PolicyBundle:
    """One for all tests: no check changes it."""
    config = GRPOConfig(**SETTINGS).settings
    model = with_lora(tiny_model(max_position_embeddings=512), is_learnt=False)
    return make_policy(model, "tiny", tiny_tokenizer(chat=True), config)


class Reciting(ScriptedEngine):
    """Says what it is told to, group after group."""

    def __init__(self, say: Say) -> None:
        self.num_groups = 0
        super().__init__(lambda request, index: self._ids(say, request, index))
        self.capabilities = Capabilities("scripted", keeps_logprobs=False)

    def _ids(self, say: Say, request: Any, index: int) -> list[int]:
        if index == 0:
            self.num_groups += 1
        return [*policy().tokenizer.encode(say(self.num_groups - 1, index), add_special_tokens=False), EOS]


def checked(
    tmp_path: Path,
    rewards: Any = right,
    *,
    say: Say = digits,
    rows: Sequence[dict[str, Any]] = ROWS,
    held_out: Sequence[dict[str, Any]] | None = None,
    groups: int | None = None,
    engine: Any = None,
    environment: Any = None,
    **settings: Any,
) -> Result:
    """The check of a recipe with these parts, through the front door; only loading is replaced."""
    config = GRPOConfig(**{**SETTINGS, "output_dir": str(tmp_path / "run"), **settings}).settings
    eval_problems = None if held_out is None else load_problems(list(held_out))
    pool, functions = with_environment(environment, None, resolve_rewards(rewards), config)
    inputs = RunInputs(config, load_problems(list(rows)), eval_problems, functions, None, environment=pool)

    def load(inputs: RunInputs) -> RunParts:
        return RunParts.of(inputs, policy(), engine or Reciting(say), make_scorer(inputs))

    recipe = Recipe(data="python-docs", rewards=["length"], **{**SETTINGS, "output_dir": config.output_dir})
    return check(recipe, inputs, groups=groups, load=load)


def names(result: Result, level: str | None = None) -> set[str]:
    """Of the findings, of one level or of any."""
    return {finding.name for finding in result.findings if level in (None, finding.level)}
