"""The walk over a grid: moves, walls, rewards of turns, splits."""

from __future__ import annotations

import pytest

from groupwise.environments import Reply
from groupwise.environments.games import grid
from groupwise.environments.games.grid import Grid
from groupwise.errors import ConfigError
from groupwise.types import Problem


def walk(*words, start=(0, 0), goal=(1, 1), **settings):
    game = Grid(**settings)
    game.reset(Problem(0, "", {"start": list(start), "goal": list(goal)}), 0)
    found = [game.step(Reply(word)) for word in words]
    return game, found


def test_a_walk_to_the_goal():
    game, (first, second) = walk("right", "I go Up!")
    assert (first.reward, first.is_last) == (0.1, False)
    assert first.messages[0]["content"] == "The goal is (+0,+1) from here."
    assert (second.reward, second.done) == (1.0, True)
    assert game.state == "(1, 1) (1, 1)"


@pytest.mark.parametrize("word", ["left", "down", "", "upward", "north", "leftright"])
def test_walls_wrong_ways_and_other_words_cost(word):
    game, (found,) = walk(word)
    assert found.reward == -0.1
    assert game.state == "(0, 0) (1, 1)"


def test_a_step_away_costs_and_is_taken():
    game, (found,) = walk("right", goal=(0, 2))
    assert found.reward == -0.1
    assert game.state == "(1, 0) (0, 2)"


def test_the_first_word_counts():
    game, _ = walk("up, not down")
    assert game.state == "(0, 1) (1, 1)"


def test_the_last_move_ends_the_walk():
    _, found = walk(*["left"] * 6)
    assert [each.is_last for each in found] == [False] * 5 + [True]
    assert found[-1].reward == -0.1


def test_without_turn_rewards_only_the_goal_is_paid():
    _, found = walk("left", "right", "up", turn_rewards=False)
    assert [each.reward for each in found] == [0.0, 0.0, 1.0]


def test_splits_hold_every_pair_once():
    train, held_out = (Grid().problems(split) for split in ("train", "eval"))
    pairs = [(tuple(row["start"]), tuple(row["goal"])) for row in [*train, *held_out]]
    assert (len(train), len(held_out), len(set(pairs))) == (58, 14, 72)
    assert Grid().problems("train") == train


def test_examples_reach_their_goals():
    (row, *_) = Grid().problems("train")
    assert len(row["prompt"]) == 2 + 2 * sum(len(words) for _, _, words in grid._EXAMPLES)
    shown = iter(row["prompt"][1:-1])
    for start, goal, words in grid._EXAMPLES:
        _, found = walk(*words, start=start, goal=goal)
        assert all(reply.reward > 0 for reply in found)
        assert found[-1].done
        after = [reply.messages[0] for reply in found[:-1]]
        questions, replies = zip(*((next(shown), next(shown)["content"]) for _ in words), strict=True)
        assert replies == words
        assert questions[1:] == tuple(after)
        assert questions[0]["content"] == f"The goal is ({goal[0] - start[0]:+d},{goal[1] - start[1]:+d}) from here."


@pytest.mark.parametrize("settings", [{"size": 1}, {"moves": 0}, {"examples": 3}])
def test_a_grid_that_cannot_be_walked_is_refused(settings):
    with pytest.raises(ConfigError, match="a grid has 2 x 2 cells or more"):
        Grid(**settings)
