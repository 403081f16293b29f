"""Whole runs with an environment: exact to the token, exact after a resume, and nothing new where it ends at once."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import CHATS, config, model_folder, trainer, write_recipe
from episodes import Plays, check_tiled, says, user
from histories import StopAfter, completions, history
from tiny import tiny_model, tiny_tokenizer, with_lora

from groupwise import GRPOTrainer
from groupwise.config import load_recipe
from groupwise.config.environment_spec import EnvironmentSpec
from groupwise.config.names import ENVIRONMENTS
from groupwise.environments import Observation, Reply
from groupwise.environments.load import GAMES, parameters
from groupwise.errors import ConfigError
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.runs.metrics import unknown_keys
from groupwise.runs.reader import RunReader
from groupwise.train.batch import rows_of

SETTINGS: dict[str, Any] = {
    "max_steps": 4, "num_generations": 3, "max_completion_length": 60, "max_turn_length": 5, "learning_rate": 0.02,
}  # fmt: skip


class Letters:
    """Worth the vowels of each turn; what it answers depends on the reply and on its own dice."""

    def reset(self, problem: Any, seed: int) -> Any:
        self.dice, self.turn = random.Random(seed), 0
        return user(f"begin {self.dice.randint(0, 9)}")

    async def step(self, reply: Reply) -> Observation:
        self.turn += 1
        reward = float(sum(reply.text.count(vowel) for vowel in "aeiou"))
        return Observation(user(f"{reply.text[:3]} {self.dice.randint(0, 9)}"), reward=reward, done=self.turn == 3)

    def close(self) -> None:
        pass


def run(folder: Path, *, stop: int | None = None, resume: bool = False, model: Any = None, **settings: Any) -> Any:
    rest = {"callbacks": [StopAfter(stop)] if stop else [], "environment": Letters}
    made = trainer(folder, model=model or tiny_model(), rewards=None, data=CHATS, rest=rest, **{**SETTINGS, **settings})
    made.train(resume_from_checkpoint=resume or None)
    return made


def groups_of(made: Any, step: int = 9) -> Any:
    from groupwise.data.order import Draw

    return made.parts.sampler.sample([Draw(90, 0), Draw(91, 1)], 3, step)


@pytest.mark.parametrize("settings", [{}, {"process_rewards": True, "dynamic_sampling": True}], ids=["plain", "dapo"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, settings):
    """Proof 9."""
    whole = run(tmp_path / "whole", **settings)
    run(tmp_path / "parts", stop=2, **settings)
    parts = run(tmp_path / "parts", resume=True, **settings)
    assert bare(history(tmp_path / "parts")) == bare(history(tmp_path / "whole"))
    assert bare(completions(tmp_path / "parts")) == bare(completions(tmp_path / "whole"))
    mine, theirs = parts.model.state_dict(), whole.model.state_dict()
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)


def bare(records: Any) -> str:
    """Records without the seconds of answers."""
    return re.sub(r'\\*"(environment/)?seconds\\*": [-\d.e]+', "", json.dumps(records))


@pytest.mark.parametrize(
    "settings",
    [{}, {"top_p": 0.9}, {"repetition_penalty": 1.3}, {"temperature": 0.7, "top_k": 8}, {"engine": "transformers"}],
    ids=["plain", "top-p", "penalty", "top-k", "slow"],
)
def test_the_learner_gives_every_sampled_token_the_log_prob_of_the_engine(tmp_path, settings):
    """Proof 3, in float32."""
    made = run(tmp_path, model=with_lora(tiny_model()), max_steps=1, **settings)
    groups = groups_of(made)
    policy, sampling = made.parts.policy.policy_model, made.parts.sampler.sampling
    scoring = Scoring(sampling.temperature, sampling.repetition_penalty, with_entropy=False)
    for model in (policy, PolicyModel(policy.model, policy.dtype, None)):
        logprob_NT = model.score(rows_of(groups), scoring).logprob_NT
        for row, completion in enumerate(c for group in groups for c in group.completions):
            check_tiled(completion)
            assert len(completion.turns) == 3
            expected = torch.tensor(completion.rollout_logprob)
            torch.testing.assert_close(logprob_NT[row, : len(expected)], expected, rtol=0, atol=1e-4)
    gap = RunReader(tmp_path).metrics()[0]["sampling/mismatch"]
    assert gap is None or gap == pytest.approx(1, abs=1e-4)


def test_what_comes_back_is_read_and_nothing_is_learnt_of_it(tmp_path):
    """Other given tokens change the log-probs behind them; as targets they do not exist."""
    made = run(tmp_path, max_steps=1)
    (group, _) = groups_of(made)
    rows = rows_of([group])
    assert len(rows.targets()) == sum(c.num_sampled for c in group.completions) < sum(map(len, rows.token_ids))


def test_an_environment_that_ends_at_once_changes_nothing(tmp_path):
    """Proof 4: the same metrics and weights as a run without, but for answers, which are compared in one turn alone."""

    def short(completions, **columns):
        return [-float(len(completion[-1]["content"])) for completion in completions]

    ways = {}
    for name, rest in (("without", {}), ("with", {"environment": lambda: Plays(says(0))})):
        settings = {**SETTINGS, "max_completion_length": 6, "max_turn_length": None, "beta": 0.1}
        made = trainer(tmp_path / name, rewards=short, data=CHATS, rest=rest, **settings)
        made.train()
        ways[name] = made.model.state_dict(), history(tmp_path / name)
    weights, plain = ways["without"]
    assert all(torch.equal(weights[name], ways["with"][0][name]) for name in weights)
    for one, other in zip(plain, ways["with"][1], strict=True):
        assert one.pop("completions/distinct_answers") == 1
        assert {key: other[key] for key in one} == one


def test_records_hold_turns_messages_and_the_environment(tmp_path):
    run(tmp_path)
    reader = RunReader(tmp_path)
    metrics = reader.metrics()[-1]
    assert metrics["environment/turns/mean"] == 3
    assert metrics["completions/given_tokens"] > 10
    assert metrics["rewards/Letters/mean"] == metrics["reward"]
    assert unknown_keys(metrics) == []
    (first, *_) = reader.completions(4)
    assert first["environment"].keys() == {"name", "seed"}
    assert first["prompt"][-1]["content"].startswith("begin ")
    for completion in first["completions"]:
        assert [message["role"] for message in completion["messages"]] == ["assistant", "user"] * 3
        assert completion["reward"] == sum(turn["reward"] for turn in completion["turns"])
        assert completion["text"] == completion["messages"][-2]["content"]


def test_a_recipe_names_an_environment(tmp_path):
    base = model_folder(tmp_path / "model")
    (tmp_path / "mine.py").write_text(
        "class Mine:\n"
        "    def __init__(self, worth=1.0):\n        self.worth = worth\n"
        "    def reset(self, problem, seed):\n        return ' so'\n"
        "    def step(self, reply):\n"
        "        from groupwise.environments import Observation\n"
        "        return Observation(reward=self.worth * len(reply.text))\n"
        "    def close(self):\n        pass\n"
    )
    path = write_recipe(tmp_path / "r.yaml", base, rewards=None, environment={"name": "mine.py:Mine", "worth": -2.0})
    recipe = load_recipe(path)
    assert recipe.environment == EnvironmentSpec(name="mine.py:Mine", params={"worth": -2.0})
    assert type(recipe)(**recipe.resolved()) == recipe
    made = GRPOTrainer.from_recipe(recipe, folder=recipe.folder)
    made.train()
    assert [function.name for function in made.scorer.functions] == ["Mine"]
    (group, *_) = RunReader(Path(recipe.config.output_dir)).completions(1)
    assert group["prompt"].endswith(" so")
    assert group["completions"][0]["reward"] == -2 * len(group["completions"][0]["text"])


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        (
            "gues",
            r'there is no environment "gues"; there are calculator, grid, guess, and classes .* Did you mean "guess"',
        ),
        ({"name": "guess", "higg": 3}, 'environment guess has no argument "higg"; it has low, high, guesses'),
        ({"weight": 2}, "environment.name"),
        (3, "environment is 3; expected a mapping"),
        ({"name": "guess", "low": 9, "high": 3}, "low is below high"),
        ("nowhere.py:Room", "There is no file .*nowhere.py to take an environment from"),
        ("no_such_module:Room", "There is no module no_such_module to take an environment from"),
        ({"name": "rooms.py:Room", "size": 3}, r"rooms.py:Room: got an unexpected keyword argument 'size' \(Room\(\)"),
        ("rooms.py:Room", "rooms.py:Room is a Room without step, close; an environment has reset"),
        ("rooms.py:Hall", 'has no function "Hall"'),
        ("rooms.py:Broken", "rooms.py:Broken cannot be made: ZeroDivisionError"),
    ],
)
def test_a_wrong_environment_is_found_before_anything_is_loaded(tmp_path, environment, words):
    from groupwise.lifecycle.inputs import read_inputs

    (tmp_path / "rooms.py").write_text(
        "class Room:\n    def reset(self, problem, seed):\n        pass\n"
        "class Broken:\n    def __init__(self):\n        1 / 0\n"
    )
    (tmp_path / "no-model").mkdir()
    path = write_recipe(tmp_path / "r.yaml", tmp_path / "no-model", environment=environment)
    with pytest.raises(ConfigError, match=words):
        read_inputs((recipe := load_recipe(path)), recipe.folder)


def test_the_table_of_names_is_that_of_the_games():
    assert {name: parameters(name) for name in GAMES} == ENVIRONMENTS


@pytest.mark.parametrize("environment", ["guess", 3, {"name": "guess"}])
def test_a_trainer_takes_what_makes_one(tmp_path, environment):
    with pytest.raises(ConfigError, match=r"environment is .*; expected a class, or a function without arguments"):
        GRPOTrainer(
            tiny_model(), None, config(tmp_path), CHATS, processing_class=tiny_tokenizer(chat=True),
            environment=environment,
        )  # fmt: skip
