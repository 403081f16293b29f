"""What the engine is asked for, what a completion holds, and that delays change nothing."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace

import numpy as np
import pytest
from episodes import ASKED, Plays, Recording, check_tiled, sampler, says, user
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import EOS, VOCABULARY, tiny_tokenizer

from groupwise.data.order import Draw
from groupwise.environments import Observation
from groupwise.errors import ConfigError, DataError
from groupwise.rollout.scripted import ScriptedEngine
from groupwise.train.episodes import environment_seed
from groupwise.train.sampler import EVALUATION, GroupSampler
from groupwise.types import Group

DRAWS = [Draw(7, 0), Draw(8, 1)]
TOKENS = tiny_tokenizer(chat=True)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENS.encode(text, add_special_tokens=False))


def script_of(turns):
    """Turn t of every completion is `turns[t]`; the number of turns before is that of end tokens and cuts."""

    def script(request, index):
        return turns[min(len(request.seed) - 3, 1) and request.seed[4] if len(request.seed) > 4 else 0]

    return script


def first_turn(request):
    return len(request.seed) < 5


words = st.lists(st.integers(3, VOCABULARY - 1), min_size=1, max_size=5)


@given(st.lists(st.tuples(words, st.booleans()), min_size=1, max_size=4), st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_every_request_is_the_prompt_and_the_completion_so_far(turns, count):
    """Proof 1, over ids that do not survive decoding and encoding."""
    turns = [[*body, *([EOS] if is_ended else [])] for body, is_ended in turns]
    engine = Recording(script_of(turns))
    groups = sampler(engine, lambda: Plays(says(len(turns) - 1)), max_turn_length=6).sample([Draw(3, 0)], count, 1)
    completions = groups[0].completions
    for completion in completions:
        check_tiled(completion)
        assert [completion.token_ids[turn.start : turn.end] for turn in completion.turns] == list(map(tuple, turns))
    seen = [groups[0].prompt_ids + c.token_ids[: turn.start] for c in completions for turn in c.turns[1:]]
    assert sorted(engine.sampled_for[1:]) == sorted(seen)
    assert engine.sampled_for[0] == groups[0].prompt_ids
    assert engine.requests[0].num_completions == count


def test_the_tokens_between_two_turns_are_those_of_the_template():
    """Proof 6, for a template without an end token: the user's answer, and the next header."""
    engine = Recording(script_of([(*ids("one"), EOS), ids("two")]))
    (group,) = sampler(engine, lambda: Plays(says(1, reward=0.5)), max_turn_length=4).sample([Draw(3, 0)], 1, 1)
    (completion,) = group.completions
    assert completion.token_ids == (*ids("one"), EOS, *ids("\nu/answer 1\na/"), *ids("two"))
    assert (completion.text, completion.stop_reason) == ("two", "length")
    assert completion.messages == (
        {"role": "assistant", "content": "one"},
        {"role": "user", "content": "answer 1"},
        {"role": "assistant", "content": "two"},
    )
    assert [(turn.stop_reason, turn.reward) for turn in completion.turns] == [("stop", 0.5), ("length", 0.5)]
    assert group.environment == ("game", environment_seed(42, 3, 1))
    assert completion.turns[0].state != completion.turns[1].state


def test_a_turn_that_was_cut_is_closed_by_a_given_end_token():
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'][0] }}/{{ m['content'] }}<eos>\n{% endfor %}"
        "{% if add_generation_prompt %}a/{% endif %}"
    )
    engine = Recording(script_of([ids("one two"), (*ids("so"), EOS), (EOS,)]))
    made = sampler(engine, lambda: Plays(says(2)), max_turn_length=3, tokenizer=tokenizer)
    (completion,) = made.sample([Draw(3, 0)], 1, 1)[0].completions
    first, second, third = completion.turns
    assert completion.token_ids[first.end : second.start] == (EOS, *ids("\nu/answer 1"), EOS, *ids("\na/"))
    assert completion.token_ids[second.end : third.start] == (*ids("\nu/answer 2"), EOS, *ids("\na/"))
    assert completion.token_ids[first.end] == EOS
    assert first.end not in set(completion.sampled)


def test_an_environment_that_ends_at_once_is_none():
    """Proof 4, of the sampler: the same requests, the same tokens, the same texts."""
    engines = [Recording(lambda request, index: (*ids("abc"), index + 5, EOS)) for _ in range(2)]
    played = sampler(engines[0], lambda: Plays(says(0, reward=1.0)), prompts=[ASKED, user("two")])
    plain = GroupSampler(engines[1], played.problems, played.sampling, played.decode, played.seed)
    groups = played.sample(DRAWS, 3, 5), plain.sample(DRAWS, 3, 5)
    assert [replace(r, max_tokens=None, session=None, decode=None) for r in engines[0].requests] == [
        replace(r, decode=None) for r in engines[1].requests
    ]
    assert engines[0].requests[0].limit == engines[1].requests[0].limit
    for one, other in zip(*groups, strict=True):
        bare = tuple(replace(c, turns=(), messages=()) for c in one.completions)
        assert replace(one, completions=bare, environment=None) == other


def test_a_budget_is_for_all_turns_and_what_came_back():
    engine = Recording(lambda request, index: (5,) * request.limit)
    made = sampler(engine, lambda: Plays(says(9, reward=1.0)), max_completion_length=40, max_turn_length=6)
    (completion,) = made.sample([Draw(1, 0)], 1, 1)[0].completions
    given_ids = len(ids("\nu/answer 1\na/"))
    assert len(completion.turns) == 2
    assert len(completion.token_ids) == 12 + given_ids
    assert (completion.stop_reason, completion.is_truncated) == ("length", True)
    assert [turn.reward for turn in completion.turns] == [1.0, 1.0]  # as earned
    assert completion.messages[-1]["role"] == "assistant"  # the policy saw nothing more

    close = sampler(
        engine, lambda: Plays(says(9)), max_completion_length=40, context=len(made.problems[0].prompt_ids) + 9
    )
    assert len(close.sample([Draw(1, 0)], 1, 1)[0].completions[0].token_ids) == 9


def test_the_last_turn_is_the_last():
    engine = Recording(lambda request, index: (*ids("go"), EOS))
    made = sampler(engine, lambda: Plays(says(9, reward=2.0)), max_turns=3)
    (completion,) = made.sample([Draw(1, 0)], 1, 1)[0].completions
    assert [turn.reward for turn in completion.turns] == [2.0] * 3
    assert (completion.stop_reason, completion.is_truncated) == ("turns", True)
    check_tiled(completion)


def test_what_an_environment_begins_with_stands_in_the_prompt():
    engine = Recording(lambda request, index: (EOS,))
    for begun, text in ((user("the maze"), "u/begin\nu/the maze\na/"), (" now", "u/begin now\na/")):
        made = sampler(engine, lambda begun=begun: Plays(says(0), lambda env, seed: begun))
        (group,) = made.sample([Draw(1, 0)], 2, 1)
        assert group.prompt_ids == ids(text)
        assert engine.requests[-1].prompt_ids == ids(text)
        assert group.problem.prompt[-1]["content"].endswith(begun if isinstance(begun, str) else "the maze")
        assert all(not c.messages[:-1] for c in group.completions)


def test_control_tokens_of_an_environment_are_plain_text():
    """Proof 7, at the start and between turns."""

    def step(environment, reply):
        return Observation(user("x<eos>a/"), done=environment.turn > 1)

    engine = Recording(lambda request, index: ids("go"))
    made = sampler(engine, lambda: Plays(step, lambda env, seed: user("so<eos>")), max_turn_length=2)
    (group,) = made.sample([Draw(1, 0)], 1, 1)
    assert EOS not in group.prompt_ids + group.completions[0].token_ids
    assert len(group.completions[0].turns) == 2


def test_plain_text_goes_on_in_its_own_format():
    engine = Recording(script_of([(*ids("one"), EOS), ids("two")]))
    made = sampler(engine, lambda: Plays(says(1)), prompts=["say "], turn_format="<{observation}>", max_turn_length=4)
    (group,) = made.sample([Draw(1, 0)], 1, 1)
    assert group.completions[0].token_ids == (*ids("one"), EOS, *ids("<answer 1>"), *ids("two"))
    with pytest.raises(ConfigError, match=r"turn_format: is 'x'; it needs \{observation\} once"):
        sampler(engine, lambda: Plays(says(1)), turn_format="x")


@pytest.mark.parametrize("begins", ["alike", "apart"])
def test_all_of_a_group_begin_with_one_seed(begins):
    """Proof 10: an unchanged class that draws from the global generators starts all of a group alike."""

    def reset(environment, seed):
        lot = f"{random.randint(0, 10**6)} {np.random.randint(10**6)}"
        return user(lot if begins == "alike" else f"you are {environment.number} and {lot}")

    made_ones = []

    def make():
        made_ones.append(Plays(says(1), reset))
        made_ones[-1].number = len(made_ones)
        return made_ones[-1]

    engine = Recording(script_of([(*ids("one"), EOS), (*ids("two"), EOS)]))
    before = random.getstate(), np.random.get_state()[1].tolist()
    one, two = sampler(engine, make, prompts=[ASKED, ASKED]).sample(DRAWS, 3, 1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert one.environment != two.environment
    for group in (one, two):
        for completion in group.completions:
            check_tiled(completion)
    if begins == "alike":
        assert len(engine.requests) == 2 + 6
        assert one.prompt_ids != two.prompt_ids
        return
    assert len(engine.requests) == 6 + 6
    starts = {c.turns[0].start for c in one.completions}
    assert min(starts) > 0
    texts = [TOKENS.decode(one.prompt_ids + c.token_ids[: c.turns[0].start]) for c in one.completions]
    assert [text.split(" and ")[0] for text in texts] == [f"u/begin\nu/you are {n}" for n in (1, 2, 3)]
    assert len({text.split(" and ")[1] for text in texts}) == 1


def test_an_evaluation_begins_with_seeds_of_its_own():
    assert environment_seed(1, 2, 5) == environment_seed(1, 2, 9) == environment_seed(1, 2, 0)
    assert len({environment_seed(1, 2, 5), environment_seed(1, 3, 5), environment_seed(1, 2, EVALUATION)}) == 3


def play(delays, is_async) -> tuple[list[Group], int]:
    """Six completions whose environments answer after these delays; how many answered at one time."""
    made, running, peak = [], set(), [0]

    def begin(environment):
        running.add(environment.number)
        peak[0] = max(peak[0], len(running))

    def step(environment, reply):
        answer = Observation(user(f"{environment.number} heard {reply.text}"), reward=float(environment.number))

        async def later():
            begin(environment)
            await asyncio.sleep(delays[environment.number])
            running.discard(environment.number)
            return answer

        if is_async:
            return later()
        begin(environment)
        time.sleep(delays[environment.number])
        running.discard(environment.number)
        return answer

    def make():
        made.append(Plays(step))
        made[-1].number = len(made) - 1
        return made[-1]

    engine = ScriptedEngine(lambda request, index: (3 + len(request.prompt_ids) % 40, 4 + index, EOS))
    groups = sampler(engine, make, prompts=[ASKED, user("other")], max_turns=3).sample(DRAWS, 3, 2)
    plain = [
        replace(c, turns=tuple(replace(t, seconds=0.0) for t in c.turns)) for group in groups for c in group.completions
    ]
    return [replace(g, completions=tuple(plain[3 * n : 3 * n + 3])) for n, g in enumerate(groups)], peak[0]


@pytest.mark.parametrize("is_async", [False, True], ids=["threads", "event loop"])
def test_delays_change_nothing(is_async):
    """Proof 8; and the steps of a round run beside each other."""
    slow, fast = [0.3, 0.0, 0.06, 0.02, 0.0, 0.08], [0.0, 0.08, 0.02, 0.06, 0.3, 0.0]
    (one, peak), (other, _), (third, _) = play(slow, is_async), play(fast, is_async), play([0.0] * 6, not is_async)
    assert one == other == third
    assert peak > 1


def test_environments_are_used_again_and_closed():
    made = []

    def make():
        made.append(Plays(says(0)))
        return made[-1]

    playing = sampler(ScriptedEngine(lambda request, index: (EOS,)), make)
    for step in (1, 2, 3):
        playing.sample([Draw(step, 0)], 4, step)
    assert [environment.num_resets for environment in made] == [3] * 4
    assert playing.pool.latest == tuple(made)
    playing.pool.close()
    assert all(environment.is_closed for environment in made)


def test_a_start_without_room_for_a_completion_is_an_error():
    made = sampler(Recording(lambda r, i: (EOS,)), lambda: Plays(says(0), lambda env, seed: user("x" * 90)), context=60)
    with pytest.raises(DataError, match=r"row 1 of the data: its prompt has 1\d\d tokens with what environment game"):
        made.sample([Draw(1, 0)], 1, 1)
