"""A tiny model learns a task of several turns from what the environment answers, and nothing without a signal."""

from __future__ import annotations

import os
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from api_helpers import trainer
from tiny import tiny_model

from groupwise.environments import Observation, Reply
from groupwise.environments.games.guess import Guess
from groupwise.runs.reader import RunReader

LETTERS = "abcdefgh"
long = pytest.mark.skipif("GROUPWISE_LEARN" not in os.environ, reason="it takes minutes: make learn runs it")


class Echo:
    """The policy reads a letter and has to write it, three times; a turn is worth 1 or 0. Only what it reads tells."""

    def reset(self, problem: Any, seed: int) -> Any:
        self._dice, self._turn = random.Random(seed), 0
        return self._ask()

    def _ask(self) -> Any:
        self._letter = self._dice.choice(LETTERS[:4])
        return [{"role": "user", "content": self._letter * 3}]

    def step(self, reply: Reply) -> Observation:
        self._turn += 1
        reward = float(self._letter in reply.text[:1])
        if self._turn == 3:
            return Observation(reward=reward, done=True)
        return Observation(self._ask(), reward=reward)

    def close(self) -> None:
        pass


def learn(folder: Path, *, environment: Any = Echo, seed: int = 0, **settings: Any) -> tuple[float, float]:
    """Mean of the environment's reward in the first and the last four steps."""
    defaults = {
        "max_steps": 50, "prompts_per_step": 4, "num_generations": 8, "max_completion_length": 60, "beta": 0.0,
        "learning_rate": 4e-3, "lr_scheduler_type": "constant", "logging_steps": 0, "max_turn_length": 1,
        "save_strategy": "no", "seed": seed,
    }  # fmt: skip
    data = [{"prompt": [{"role": "user", "content": f"{n}"}]} for n in range(10)]
    model = tiny_model(seed=seed, initializer_range=0.1)
    rest = {"environment": environment}
    trainer(folder, model=model, rewards=None, data=data, rest=rest, **{**defaults, **settings}).train()
    curve = [record[f"rewards/{environment.__name__}/mean"] for record in RunReader(folder).metrics()]
    return fmean(curve[:4]), fmean(curve[-4:])


class Unread(Echo):
    """It shows another letter than the one that it wants."""

    def _ask(self) -> Any:
        shown = super()._ask()
        self._letter = self._dice.choice(LETTERS[:4])
        return shown


class Dealt(Echo):
    """It gives the rewards of other turns."""

    def step(self, reply: Reply) -> Observation:
        found = super().step(reply)
        return Observation(found.messages, reward=float(self._dice.random() < 0.25), done=found.done)


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, pytest.param({"process_rewards": True}, marks=long)], ids=["trajectory", "turn"]
)
def test_an_answer_to_what_was_read_is_learnt(tmp_path, settings):
    first, last = learn(tmp_path, **settings)
    assert first < 0.3
    assert last > 0.9


@long
@pytest.mark.slow
def test_what_is_not_read_is_not_learnt(tmp_path):
    """The best that a policy can do is to write any of four letters: 3 turns x 1/4."""
    _, last = learn(tmp_path, environment=Unread, process_rewards=True)
    assert last < 0.9


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "settings"), [(Echo, {"learning_rate": 0.0}), (Dealt, {})], ids=["learning rate 0", "noise"]
)
def test_without_a_signal_nothing_is_learnt(tmp_path, environment, settings):
    first, last = learn(tmp_path, environment=environment, max_steps=20, **settings)
    assert abs(last - first) < 0.2


@long
@pytest.mark.slow
def test_the_guess_game_is_learnt(tmp_path):
    """A random model hardly writes a digit; wins need it to guess inside of what the hints leave."""

    class Game(Guess):
        def __init__(self) -> None:
            super().__init__(low=1, high=4, guesses=3)

    first, last = learn(tmp_path, environment=Game, max_turns=3)
    assert first < 0.2
    assert last > 0.6
