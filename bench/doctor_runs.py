"""Recipes built to fail, each trained on a tiny random model within seconds: sign -> the run that should show it."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common

sys.path.insert(0, str(common.ROOT / "tests"))

import api_helpers
import tiny

NUMBERS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
TRAIN = [{"prompt": f"say {word}", "answer": word} for word in NUMBERS]
HELD_OUT = [{"prompt": f"name {word}", "answer": word} for word in NUMBERS]
USUAL: dict[str, Any] = {
    "max_steps": 24, "prompts_per_step": 4, "num_generations": 8, "max_completion_length": 8, "beta": 0.0,
    "learning_rate": 1e-2, "lr_scheduler_type": "constant", "logging_steps": 0, "guards": "off", "save_strategy": "no",
}  # fmt: skip
STANDS: dict[str, Any] = {"learning_rate": 1e-6}
"""A policy that stays as it is, for signs of data and rewards."""

Reward = Callable[..., list[float | None]]


def train(folder: Path, *rewards: Reward, rest: dict[str, Any] | None = None, **settings: Any) -> None:
    """Train the tiny model on these rewards."""
    model = tiny.tiny_model(initializer_range=0.1)
    all_settings = {**USUAL, **settings}
    api_helpers.trainer(folder, model=model, rewards=list(rewards), data=TRAIN, rest=rest, **all_settings).train()


def each(judge: Callable[[str], float | None], name: str) -> Reward:
    """A reward of the text alone."""

    def reward(completions: list[str], **columns: Any) -> list[float | None]:
        return [judge(text) for text in completions]

    reward.__name__ = name
    return reward


def letters(text: str) -> str:
    return text.replace("<unk>", "")


vowels = each(lambda text: sum(letter in "aeiou" for letter in letters(text)) / 8, "vowels")
brevity = each(lambda text: -len(text) / 8, "brevity")
length = each(lambda text: len(letters(text)) / 8, "length")
shortness = each(lambda text: -len(letters(text)) / 8, "shortness")
begins_with_a = each(lambda text: float(text[:1] == "a"), "begins_with_a")


def shortest_of_all(completions: list[str], completion_ids: list[list[int]], **columns: Any) -> list[float | None]:
    """A judge that compares the completions of its call: the shortest gets most, and the mean never moves."""
    order = sorted(range(len(completions)), key=lambda i: -len(completion_ids[i]))
    return [order.index(i) / len(order) for i in range(len(completions))]


def dice(seed: int = 0) -> Reward:
    draw = random.Random(seed)

    def noise(completions: list[str], **columns: Any) -> list[float | None]:
        return [draw.random() for _ in completions]

    return noise


def says_answer(completions: list[str], answer: list[str], **columns: Any) -> list[float | None]:
    return [float(word in text) for text, word in zip(completions, answer, strict=True)]


def of_prompt(completions: list[str], prompts: list[str], **columns: Any) -> list[float | None]:
    return [float(len(prompt) % 2) for prompt in prompts]


def known_prompts(completions: list[str], prompts: list[str], **columns: Any) -> list[float | None]:
    """Pays for vowels after the training prompts alone."""
    paid = vowels(completions=completions)
    return [value if prompt.startswith("say") else 0.1 for value, prompt in zip(paid, prompts, strict=True)]


def often_none(completions: list[str], **columns: Any) -> list[float | None]:
    return [None if i % 3 == 0 else value for i, value in enumerate(vowels(completions=completions))]


def slow(completions: list[str], **columns: Any) -> list[float | None]:
    time.sleep(1.2)
    return vowels(completions=completions)


def rare_and_huge(completions: list[str], trainer_state: Any, **columns: Any) -> list[float | None]:
    scale = 1000.0 if trainer_state.global_step % 8 == 7 else 1.0
    return [scale * value for value in vowels(completions=completions) if value is not None]


def two_of(first: Reward, second: Reward, **settings: Any) -> Callable[[Path], None]:
    return lambda folder: train(folder, first, second, **settings)


RUNS: dict[str, Callable[[Path], None]] = {
    "reward_constant": lambda at: train(at, each(lambda text: 1.0, "always")),
    "reward_noisy": lambda at: train(at, dice(), max_completion_length=1, **STANDS),
    "one_answer": lambda at: train(at, begins_with_a, max_completion_length=2),
    "exploit_learnt": lambda at: train(at, brevity),
    "repeated_phrase": lambda at: train(
        at, each(lambda text: text.count("a") / 24, "counts_a"), max_completion_length=24, max_steps=40
    ),
    "all_failed": lambda at: train(at, says_answer, **STANDS),
    "all_solved": lambda at: train(at, each(lambda text: float(text[:1] != "a"), "not_a"), **STANDS),
    "group_too_small": lambda at: train(at, each(lambda text: float(text[:1] == "b"), "begins_with_b"), **STANDS),
    "always_or_never": lambda at: train(at, of_prompt, **STANDS),
    "often_unscored": lambda at: train(at, often_none),
    "functions_conflict": two_of(length, shortness, max_steps=12, **STANDS),
    "only_format_learnt": two_of(begins_with_a, says_answer, max_steps=40),
    "function_dominates": two_of(
        each(lambda text: 10 * sum(letter in "aeiou" for letter in letters(text)), "ten_vowels"),
        each(lambda text: float("7" in text), "has_7"),
    ),
    "held_out_still": lambda at: train(
        at, known_prompts, rest={"eval_dataset": HELD_OUT}, eval_steps=12, eval_on_start=True
    ),
    "length_collapses": lambda at: train(at, shortest_of_all, max_completion_length=24),
    "truncation_costs": lambda at: train(
        at, each(lambda text: float(len(letters(text)) < 4), "short_enough"), max_completion_length=6, **STANDS
    ),
    "kl_explodes": lambda at: train(at, dice(), learning_rate=1e-1, beta=1e-6),
    "policy_stands_still": lambda at: train(at, vowels, learning_rate=1e-9, beta=0.04),
    "gradient_spikes": lambda at: train(at, rare_and_huge, objective="dr_grpo", max_steps=32, **STANDS),
    "clip_share_off": lambda at: train(at, vowels, num_iterations=4, learning_rate=5e-2),
    "curriculum_stuck": lambda at: train(at, says_answer, curriculum="pools", max_steps=40, **STANDS),
    "dropping_costs": lambda at: train(
        at,
        each(lambda text: float(text[:2] == "aa"), "begins_with_aa"),
        dynamic_sampling=True,
        max_completion_length=32,
        **STANDS,
    ),
    "reward_slow": lambda at: train(at, slow, max_steps=6),
}
