"""A tiny random model learns what is rewarded, and learns nothing from rewards that say nothing.

Every run records the share of vowels in the completions, whatever it is trained on: a random model writes about one in
eight. Controls take the same settings and another signal.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from api_helpers import trainer
from tiny import tiny_model, with_lora

from groupwise.runs.reader import RunReader

Reward = Callable[..., list[float]]
LENGTH = 8


def vowels(completions: list[str], **columns: Any) -> list[float]:
    """The share of vowels among the letters that were sampled: `<unk>` is the name of a token."""
    return [sum(letter in "aeiou" for letter in text.replace("<unk>", "")) / LENGTH for text in completions]


def brevity(completions: list[str], **columns: Any) -> list[float]:
    return [-len(completion) / LENGTH for completion in completions]


def fewer_vowels(completions: list[str], **columns: Any) -> list[float]:
    return [-value for value in vowels(completions)]


def shuffled(seed: int) -> Reward:
    """The right rewards, dealt to the wrong completions of the batch."""
    dice = random.Random(seed)

    def shuffled_vowels(completions: list[str], **columns: Any) -> list[float]:
        values = vowels(completions)
        dice.shuffle(values)
        return values

    return shuffled_vowels


def noise(seed: int) -> Reward:
    dice = random.Random(seed)

    def noise_reward(completions: list[str], **columns: Any) -> list[float]:
        return [dice.random() for _ in completions]

    return noise_reward


def learn(
    folder: Path, signal: Reward, measured: Reward = vowels, *, seed: int = 0, **settings: Any
) -> tuple[float, float]:
    """Mean of the measured reward in the first and in the last three steps."""
    model = tiny_model(seed=seed, initializer_range=0.1)
    wrap = settings.pop("wrap", lambda model: model)
    defaults = {
        "max_steps": 16, "prompts_per_step": 4, "num_generations": 8, "max_completion_length": LENGTH, "beta": 0.0,
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "logging_steps": 0, "reward_weights": [1.0, 0.0],
    }  # fmt: skip
    both = [signal, lambda **columns: measured(**columns)]
    trainer(folder, model=wrap(model), rewards=both, seed=seed, **{**defaults, **settings}).train()
    key = [name for name in RunReader(folder).metrics()[0] if name.startswith("rewards/") and name.endswith("/mean")][1]
    curve = [record[key] for record in RunReader(folder).metrics()]
    return fmean(curve[:3]), fmean(curve[-3:])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_rewarded_letters_become_common(tmp_path, seed):
    first, last = learn(tmp_path, vowels, seed=seed)
    assert first < 0.25
    assert last > 0.8


def test_short_answers_are_learnt_to_be_short(tmp_path):
    first, last = learn(tmp_path, brevity, brevity)
    assert first < -1.0  # a token that is not a letter is written as several characters
    assert last > -0.4


@pytest.mark.parametrize(
    "settings",
    [
        {"wrap": with_lora, "learning_rate": 5e-2, "max_steps": 20},
        {"num_iterations": 2, "num_minibatches": 2, "max_steps": 6},
        {"beta": 0.02, "temperature": 1.2, "top_k": 40},
        {"objective": "dr_grpo"},
    ],
    ids=["lora", "four updates a step", "kl and top-k", "dr_grpo"],
)
def test_it_learns_by_other_routes_too(tmp_path, settings):
    first, last = learn(tmp_path, vowels, **settings)
    assert last > 2 * first


@pytest.mark.parametrize(
    ("signal", "settings"),
    [(vowels, {"learning_rate": 0.0}), (shuffled(1), {}), (noise(2), {})],
    ids=["learning rate 0", "shuffled", "noise"],
)
def test_without_a_signal_nothing_is_learnt(tmp_path, signal, settings):
    first, last = learn(tmp_path, signal, **settings)
    assert abs(last - first) < 0.1


def test_with_the_sign_flipped_it_gets_worse(tmp_path):
    first, last = learn(tmp_path, fewer_vowels)
    assert last < first / 2
