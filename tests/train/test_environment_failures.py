"""What bad environments and tools get: the table of docs/agents.md, a test a row. Failure is never a reward of 0."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from dataclasses import replace

import pytest
from episodes import ASKED, Plays, Recording, check_tiled, sampler, says, user
from scored import samples
from tiny import EOS, tiny_tokenizer

from groupwise.config import GRPOConfig
from groupwise.data.order import Draw
from groupwise.environments import Observation
from groupwise.errors import EnvironmentFailedError
from groupwise.lifecycle.inputs import environment_reward
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.train.advantages import step_advantages
from groupwise.train.batch import LogProbs
from groupwise.train.episodes import Rules
from groupwise.train.step_metrics import turns

TOKENS = tiny_tokenizer(chat=True)
DRAWS = [Draw(1, 0)]


def ids(text):
    return tuple(TOKENS.encode(text, add_special_tokens=False))


def raises(error):
    def step(environment, reply):
        raise error

    return step


def hangs(environment, reply):
    time.sleep(30)


async def hangs_in_the_loop(environment, reply):
    await asyncio.sleep(30)


BROKEN = {
    "raises": (
        raises(ValueError("no such room")),
        r"ValueError: no such room \(.*test_environment_failures.py, line \d+\)",
    ),
    "connection": (raises(ConnectionError("gone")), "ConnectionError: gone"),
    "says so": (raises(EnvironmentFailedError("the server is down")), "EnvironmentFailedError: the server is down"),
    "exits": (raises(SystemExit(3)), "SystemExit: 3"),
    "hangs": (hangs, "TimeoutError: no answer within 0.3 s"),
    "hangs in the loop": (hangs_in_the_loop, "TimeoutError"),
    "no observation": (lambda e, r: "you win", "step returned a str; expected groupwise.environments.Observation"),
    "nothing": (lambda e, r: None, "step returned a NoneType"),
    "nan": (lambda e, r: Observation(reward=float("nan")), "a reward of nan came back; expected a finite number"),
    "text as reward": (lambda e, r: Observation(reward="1"), "a reward of '1' came back"),
    "text as messages": (lambda e, r: Observation("hello"), "'hello' came back; expected messages such as"),
    "content of no text": (lambda e, r: Observation([{"role": "user", "content": 3}]), "'content': 3"),
    "calls of another kind": (lambda e, r: Observation(user("a"), calls=("x",)), "are not groupwise.environments.Call"),
}


def broken_now_and_then(step, *, after=0):
    """The third instance is broken, the others play one turn more."""
    made = []

    def act(environment, reply):
        if environment.number == 2 and environment.turn > after:
            return step(environment, reply)
        return says(1, reward=float(environment.number))(environment, reply)

    def make():
        made.append(Plays(act))
        made[-1].number = len(made) - 1
        return made[-1]

    return make, made


def play(step, *, after=0, count=4, **settings):
    make, made = broken_now_and_then(step, after=after)
    engine = Recording(lambda request, index: (*ids("go"), EOS))
    made_sampler = sampler(engine, make, environment_timeout_s=0.3, **settings)
    return made_sampler.sample(DRAWS, count, 1)[0], made


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_environment_leaves_its_completion_unscored(name, caplog):
    step, words = BROKEN[name]
    with caplog.at_level(logging.WARNING, "groupwise"):
        group, made = play(step)
    assert [c.stop_reason for c in group.completions] == ["stop", "stop", "failed", "stop"]
    for completion in group.completions:
        check_tiled(completion)
    own = environment_reward("game", GRPOConfig().settings)
    text_reward = resolve_rewards([{"name": "length", "target": 0}])[0]
    (scored,) = RewardScorer([own, text_reward]).score([group]).groups
    assert scored.rewards["game"] == (0.0, 2.0, None, 6.0)
    assert scored.rewards["length"][2] is None  # no function scores what was not played to its end
    assert scored.reward[2] is None
    assert scored.has_signal
    advantages = step_advantages(GRPOConfig().settings, samples([scored]), LogProbs(), None, beta=0.0, ema_start=0.0)
    assert advantages[2] == 0
    assert advantages[[0, 1, 3]].sum() == pytest.approx(0, abs=1e-6)  # the baseline is that of the three others
    (record,) = caplog.records
    assert "1 of 4 completions are unscored because environment game failed" in record.message
    assert re.search(words, record.message), record.message
    assert made[2].is_closed
    assert turns(list(group.completions))["environment/failed"] == 0.25


def test_a_broken_environment_is_not_used_again():
    make, made = broken_now_and_then(raises(ValueError("broken")))
    playing = sampler(Recording(lambda request, index: (EOS,)), make)
    playing.sample(DRAWS, 4, 1)
    groups = playing.sample(DRAWS, 4, 2)
    assert [c.stop_reason for c in groups[0].completions] == ["stop"] * 4
    assert len(made) == 5
    assert made[2].num_resets == 1


def test_what_was_earned_before_the_failure_does_not_count():
    group, _ = play(raises(ConnectionError("gone")), after=1)
    failed = group.completions[2]
    assert [turn.reward for turn in failed.turns] == [2.0, None]
    (scored,) = (
        RewardScorer([environment_reward("game", GRPOConfig(process_rewards=True).settings)]).score([group]).groups
    )
    assert scored.reward[2] is None
    assert scored.steps["game"][2] is None


@pytest.mark.parametrize("count", [1, 3])
def test_more_than_half_of_a_step_ends_the_run(count):
    made = sampler(Recording(lambda r, i: (EOS,)), lambda: Plays(raises(ValueError("broken"))))
    with pytest.raises(
        EnvironmentFailedError, match=rf"{count} of {count} completions .* more than half, so the run ends"
    ):
        made.sample(DRAWS, count, 1)


@pytest.mark.parametrize("kind", ["raises", "hangs", "lies"])
def test_a_reset_that_fails_is_a_failure_too(kind):
    made = []

    def reset(environment, seed):
        if environment.number == 1:
            if kind == "raises":
                raise OSError("no socket")
            if kind == "hangs":
                time.sleep(30)
            return 17
        return user("the room")

    def make():
        made.append(Plays(says(1, reward=1.0), reset))
        made[-1].number = len(made) - 1
        return made[-1]

    engine = Recording(lambda request, index: (*ids("go"), EOS))
    (group,) = sampler(engine, make, environment_timeout_s=0.3).sample(DRAWS, 3, 1)
    assert [c.stop_reason for c in group.completions] == ["stop", "failed", "stop"]
    assert group.completions[1].token_ids == ()
    assert (
        samples([RewardScorer([environment_reward("g", GRPOConfig().settings)]).score([group]).groups[0]])
        .mask_NT[1]
        .sum()
        == 0
    )


def test_a_long_answer_loses_its_middle():
    def step(environment, reply):
        return Observation(user("x" * 50 + "y" * 50), reward=0.0, done=environment.turn > 1)

    engine = Recording(lambda request, index: (*ids("go"), EOS))
    (group,) = sampler(engine, lambda: Plays(step), max_observation_length=20).sample(DRAWS, 1, 1)
    (completion,) = group.completions
    assert [turn.is_cut for turn in completion.turns] == [True, True]
    assert completion.messages[1]["content"] == "x" * 10 + "... 80 characters left out ..." + "y" * 10
    assert turns([completion])["environment/observations_cut"] == 1.0


def test_an_answer_that_does_not_fit_is_not_seen_and_its_turn_earns():
    def step(environment, reply):
        return Observation(user("z" * 60), reward=0.25)

    engine = Recording(lambda request, index: (*ids("go"), EOS))
    (group,) = sampler(engine, lambda: Plays(step), max_completion_length=50).sample(DRAWS, 1, 1)
    (completion,) = group.completions
    assert (completion.stop_reason, completion.turns[0].reward) == ("length", 0.25)
    assert completion.token_ids == (*ids("go"), EOS)


def test_unscored_turns_are_not_zero():
    engine = Recording(lambda request, index: (*ids("go"), EOS))
    (group,) = sampler(engine, lambda: Plays(says(2))).sample(DRAWS, 2, 1)
    (scored,) = RewardScorer([environment_reward("g", GRPOConfig().settings)]).score([group]).groups
    assert scored.reward == (None, None)


def test_a_reward_for_the_whole_is_added_to_the_last_turn():
    class Final(Plays):
        def final_reward(self):
            return self.turn * 10

    engine = Recording(lambda request, index: (*ids("go"), EOS))
    (group,) = sampler(engine, lambda: Final(says(1, reward=1.0))).sample(DRAWS, 1, 1)
    assert [turn.reward for turn in group.completions[0].turns] == [1.0, 21.0]

    class Late(Plays):
        async def final_reward(self):
            return None if self.turn else 1

    (group,) = sampler(engine, lambda: Late(says(1))).sample(DRAWS, 1, 1)
    assert [turn.reward for turn in group.completions[0].turns] == [None, None]


def test_the_rules_are_those_of_the_configuration():
    config = GRPOConfig(max_turns=3, max_turn_length=9, max_observation_length=80, environment_timeout_s=7).settings
    assert Rules.of(config, 100) == Rules(3, 9, 80, 7.0, 512, 100)
    assert replace(Rules.of(config, None), context=5).context == 5
    assert ASKED
