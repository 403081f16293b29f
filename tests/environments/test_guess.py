"""The game that comes with groupwise: its hints, its rewards, its secret."""

from __future__ import annotations

import pytest

from groupwise.environments import Reply
from groupwise.environments.games.guess import Guess
from groupwise.errors import ConfigError
from groupwise.types import Problem

PROBLEM = Problem(0, "guess")


def play(guesses, *, seed=3, **settings):
    game = Guess(**settings)
    game.reset(PROBLEM, seed)
    found = []
    for guess in guesses:
        found.append(game.step(Reply(str(guess))))
        if found[-1].done:
            break
    return game, found


def worth(guesses, **settings):
    return play(guesses, **settings)[0].final_reward()


def secret(seed, **settings):
    game = Guess(**settings)
    game.reset(PROBLEM, seed)
    return game._secret


def test_a_seed_is_a_secret():
    secrets = [secret(seed) for seed in range(200)]
    assert set(secrets) == set(range(1, 11))
    assert secrets == [secret(seed) for seed in range(200)]


def test_hints_point_to_the_secret_and_a_win_is_worth_one():
    goal = secret(3)
    for number in set(range(1, 11)) - {goal}:
        game, (first, second) = play([number, f"It is {goal}!"])
        assert first.messages[0]["content"] == ("higher" if number < goal else "lower")
        assert first.reward is None
        assert (second.reward, second.done, second.messages) == (None, True, ())
        assert game.final_reward() == 1.0


def test_a_lost_game_is_worth_its_consistent_guesses():
    seed = next(seed for seed in range(99) if secret(seed) == 7)
    assert worth([1, 2, 3, 4], seed=seed) == 0.5
    assert worth([5, 3, 4, 6], seed=seed) == 0.25  # 3 and 4 were ruled out
    assert worth([9, 10, 99, "well"], seed=seed) == 0.125
    assert worth(["a", "b", "c", "d"], seed=seed) == 0.0


def test_a_game_that_is_cut_off_is_worth_what_was_guessed():
    seed = next(seed for seed in range(99) if secret(seed) == 7)
    assert worth([1, 2], seed=seed) == 0.25
    assert worth([], seed=seed) == 0.0


def test_a_reply_without_a_number_uses_a_guess_up():
    _, found = play(["hm"] * 9, low=1, high=10, seed=0)
    assert len(found) == 4
    assert found[0].messages[0]["content"] == "Guess a number from 1 to 10."


def test_bisection_wins_always():
    for seed in range(40):
        game = Guess(1, 15, 4)
        game.reset(PROBLEM, seed)
        least, most, found = 1, 15, None
        while found is None or not found.done:
            middle = (least + most) // 2
            found = game.step(Reply(f"{middle}"))
            if not found.done:
                least, most = (middle + 1, most) if found.messages[0]["content"] == "higher" else (least, middle - 1)
        assert game.final_reward() == 1.0


@pytest.mark.parametrize("settings", [{"low": 3, "high": 3}, {"guesses": 0}])
def test_a_game_that_cannot_be_played_is_refused(settings):
    with pytest.raises(ConfigError, match="low is below high"):
        Guess(**settings)


def test_the_game_poses_its_own_problems():
    rows = Guess().problems("train")
    assert len(rows) >= 64
    assert Guess().problems("eval") is None
    (_system, *games, _ask) = rows[0]["prompt"]
    starts = [place for place, message in enumerate(games) if message["content"] == _ask["content"]]
    assert len(starts) == 2
    for start, end in zip(starts, [*starts[1:], len(games)], strict=True):
        said = [message["content"] for message in games[start:end]]
        goal = int(said[-1])
        for guess, hint in zip(said[1:-1:2], said[2::2], strict=True):
            assert hint == ("higher" if int(guess) < goal else "lower")
        assert len(said) // 2 <= 4
    assert len(Guess(examples=0).problems("train")[0]["prompt"]) == 2
