"""Episodes that several ranks play are those of one: the ranks are threads here, which wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from episodes import Plays, Recording, sampler, says, user

from groupwise.data.order import Draw
from groupwise.errors import DataError, EnvironmentFailedError
from groupwise.ranks import Ranks
from groupwise.types import Group
from groupwise.world import World, stretch

DRAWS = [Draw(4, 0), Draw(9, 1), Draw(11, 0)]
NUM_COMPLETIONS = 4
PROMPTS = (user("first"), user("the second"))


class Together(World):
    """One of several ranks that are threads of this process."""

    gather_from = Ranks.gather_from

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, values: list[Any]) -> None:
        self.rank, self.size, self._barrier, self._values = rank, size, barrier, values

    def gather(self, value: Any, what: str) -> list[Any]:
        self._values[self.rank] = value
        self._barrier.wait(20)
        found = list(self._values)
        self._barrier.wait(20)
        return found


def script(request: Any, index: int) -> list[int]:
    """Tokens that depend on the stream and on the prompt."""
    return [3 + (sum(request.seed) * 7 + index * 5 + len(request.prompt_ids) + n) % 40 for n in range(4)]


def play(size: int, make: Callable[[int], Plays], script: Any = script, **settings: Any) -> list[list[Group]]:
    """What each rank makes of the same draws; `make` takes the number of the completion among all."""
    barrier, values = threading.Barrier(size), [None] * size

    def on(rank: int) -> list[Group]:
        numbers = iter(stretch(len(DRAWS) * NUM_COMPLETIONS, rank, size))
        own = sampler(Recording(script), lambda: make(next(numbers)), prompts=PROMPTS, max_turn_length=4, **settings)
        return replace(own, world=Together(rank, size, barrier, values)).sample(DRAWS, NUM_COMPLETIONS, 3)

    with ThreadPoolExecutor(size) as threads:
        return [each.result() for each in [threads.submit(on, rank) for rank in range(size)]]


def alike(groups: list[Group]) -> Any:
    return [replace(g, completions=tuple(_timeless(c) for c in g.completions)) for g in groups]


def _timeless(completion: Any) -> Any:
    return replace(completion, turns=tuple(replace(turn, seconds=0.0) for turn in completion.turns))


def begins_alike(number: int) -> Plays:
    return Plays(says(2, reward=1.0), lambda environment, seed: user(f"seed {seed % 100}"))


def begins_differently(number: int) -> Plays:
    return Plays(says(1), lambda environment, seed: user(f"you are number {number}"))


def fails_at_first(number: int) -> Plays:
    def reset(environment: Any, seed: int) -> Any:
        if number in (1, 6):
            raise OSError("no container")
        return user("go")

    return Plays(says(1, reward=float(number)), reset)


def fails_later(number: int) -> Plays:
    def step(environment: Any, reply: Any) -> Any:
        if number % 5 == 2 and environment.turn == 2:
            raise OSError("it broke")
        return says(3)(environment, reply)

    return Plays(step)


@pytest.mark.parametrize("size", [2, 3, 5, 16])
@pytest.mark.parametrize("make", [begins_alike, begins_differently, fails_at_first, fails_later])
def test_the_number_of_ranks_changes_no_completion(size: int, make: Callable[[int], Plays]) -> None:
    (one,) = play(1, make)
    for groups in play(size, make):
        assert alike(groups) == alike(one)


def test_a_share_of_a_group_is_one_request() -> None:
    requests: list[tuple[int, int]] = []

    def seen(request: Any, index: int) -> list[int]:
        if index == request.first:
            requests.append((request.num_completions, request.first))
        return script(request, index)

    play(5, lambda number: Plays(says(0)), seen)  # 2, 2, 3, 2 and 3 completions: only the fourth rank has two groups
    assert sorted(requests) == [(1, 0), (1, 3), (2, 0), (2, 2), (3, 0), (3, 1)]


def test_most_of_all_ranks_have_to_play() -> None:
    """One rank whose environments all fail is a third of them."""

    def make(number: int) -> Plays:
        def broken(environment: Any, reply: Any) -> Any:
            raise OSError("it broke")

        return Plays(broken if number < limit else says(0))

    limit = 4
    groups = play(3, make)[0]
    assert [c.stop_reason for c in groups[0].completions] == ["failed"] * 4
    limit = 7
    with pytest.raises(EnvironmentFailedError, match=r"7 of 12 completions are unscored .* OSError: it broke"):
        play(3, make)


def test_the_error_of_one_rank_is_raised_on_all() -> None:
    def too_long(number: int) -> Plays:
        return Plays(says(0), lambda environment, seed: user("long " * 200 if number == 11 else "short"))

    sentences = []
    for size in (1, 3):
        with pytest.raises(DataError, match="leaves no room for a completion") as caught:
            play(size, too_long, context=150)
        sentences.append(str(caught.value))
    assert sentences[0] == sentences[1]
