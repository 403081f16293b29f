"""How work is divided: passes of the learner, completions of a rollout."""

from __future__ import annotations

import socket

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from groupwise import GRPOConfig
from groupwise.errors import ConfigError, RankError, RewardError
from groupwise.launch import is_leader, local_rank, rank, world_size
from groupwise.lifecycle.follow import compare_settings
from groupwise.lifecycle.inputs import RunInputs
from groupwise.ranks import _open_store, this_world
from groupwise.rewards.function import RewardFunction
from groupwise.rollout.scripted import ScriptedEngine
from groupwise.rollout.spread import LOAD, SAMPLE, SpreadEngine, cut, sample_share
from groupwise.train.alike import check_alike, checksums
from groupwise.types import Request, Sampling
from groupwise.world import World, portion

SAMPLING = Sampling(max_tokens=4, stop_ids=(1,))


def ranks(size: int) -> list[World]:
    worlds = [World() for _ in range(size)]
    for number, world in enumerate(worlds):
        world.rank, world.size = number, size
    return worlds


def requests(counts: list[int]) -> list[Request]:
    return [Request((5, 6), count, SAMPLING, seed=(7, number)) for number, count in enumerate(counts)]


@given(st.lists(st.integers(1, 50), max_size=12), st.integers(1, 5))
def test_every_pass_is_done_once_and_loads_are_even(costs, size):
    shares = [portion(costs, world) for world in ranks(size)]
    assert sorted(piece for share in shares for piece in share) == list(range(len(costs)))
    loads = [sum(costs[piece] for piece in share) for share in shares]
    assert max(loads) - min(loads) <= max(costs, default=0)


def test_the_longest_pass_goes_alone():
    assert [portion([5, 1, 1, 1, 1], world) for world in ranks(2)] == [[0], [1, 2, 3, 4]]


def test_one_rank_does_everything_in_its_order():
    assert portion([1, 5, 3], World()) == [0, 1, 2]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 5))
def test_every_completion_is_sampled_once_by_ranks_with_equally_many(counts, size):
    asked = requests(counts)
    pieces = [cut(asked, world.rank, size) for world in ranks(size)]
    found = [(n, piece.first + i) for share in pieces for n, piece in share for i in range(piece.num_completions)]
    assert found == [(n, i) for n, count in enumerate(counts) for i in range(count)]
    sizes = [sum(piece.num_completions for _, piece in share) for share in pieces]
    assert max(sizes) - min(sizes) <= 1


class Followed(World):
    """Rank 0 of two, whose other rank is played by a second engine of this process."""

    size = 2

    def __init__(self, engine: ScriptedEngine) -> None:
        self.engine, self.orders, self.answer = engine, [], None

    def order(self, name, payload=None):
        self.orders.append(name)
        other = ranks(2)[1]
        if name == SAMPLE:
            assert all(request.decode is None for request in payload)
            self.answer = sample_share(self.engine, payload, other)
        if name == LOAD:
            self.engine.load_weights(None, payload)

    def gather(self, value, what):
        return [value, self.answer]


def engine() -> ScriptedEngine:
    return ScriptedEngine(lambda request, index: [request.seed[1] * 10 + index + 2, 1])


@pytest.mark.parametrize("counts", [[4, 4, 4], [1], [3, 5], [7, 1, 1]])
def test_two_ranks_answer_as_one(counts):
    spread = SpreadEngine(engine(), Followed(engine()))
    spread.load_weights(None, 3)
    alone = engine()
    alone.load_weights(None, 3)
    assert dict(spread.generate(requests(counts))) == dict(alone.generate(requests(counts)))
    assert spread.capabilities.name == "scripted, on 2 ranks"


def test_the_error_of_another_rank_is_raised_on_rank_0():
    def broken(request, index):
        raise RewardError("cannot be sampled")

    spread = SpreadEngine(engine(), Followed(ScriptedEngine(broken)))
    with pytest.raises(RewardError, match="cannot be sampled"):
        list(spread.generate(requests([4])))


def test_equal_bits_have_equal_checksums_and_one_bit_shows():
    tensors = [torch.randn(40), torch.randn(3, 3).bfloat16(), torch.arange(5, dtype=torch.uint8)]
    again = [tensor.clone() for tensor in tensors]
    assert checksums(tensors) == checksums(again)
    again[0][7] = torch.nextafter(again[0][7], torch.tensor(9.0))
    assert checksums(tensors)[0] != checksums(again)[0]
    assert checksums(tensors)[1:] == checksums(again)[1:]
    assert checksums([]) == []


def test_a_rank_with_other_weights_is_named():
    class Disagreeing(World):
        size = 3

        def gather(self, value, what):
            return [value, value, [value[0], value[1] + 1]]

    with pytest.raises(RankError, match="Rank 2 holds other weights than rank 0: bias differs"):
        check_alike(torch.nn.Linear(2, 2), Disagreeing())


def test_other_settings_are_named():
    with pytest.raises(RankError, match="Rank 2 was started with seed 44, rank 0 with 42"):
        compare_settings({"seed": 44, "beta": 0.0}, {"seed": 42, "beta": 0.0}, 2)


def test_the_launcher_s_variables(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (world_size(), rank(), local_rank(), is_leader()) == (1, 0, 0, True)
    monkeypatch.setenv("RANK", "3")  # left by something else: no launcher has set a size
    assert rank() == 0
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert (world_size(), rank(), local_rank(), is_leader()) == (8, 3, 1, False)
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ConfigError, match='Found RANK="first" in the environment, expected a whole number'):
        rank()


def test_a_size_without_an_address_is_refused(monkeypatch):
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"Found WORLD_SIZE=2 in the environment and no RANK.* with torchrun"):
        this_world()


def test_a_port_that_is_taken_is_named(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        of_rank = {"RANK": 0, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        for name, value in of_rank.items():
            monkeypatch.setenv(name, str(value))
        with pytest.raises(ConfigError, match=rf"Rank 0 could not join .*:{port}: .*give another one"):
            _open_store()


def test_a_lag_with_an_environment_is_refused_with_its_reason():
    config = GRPOConfig(
        output_dir="unused", servers=["http://localhost:8000"], rollout_lag=1, objective={"mismatch": "token_truncate"}
    )
    inputs = RunInputs(config.settings, None, None, [], environment=object())
    with pytest.raises(ConfigError, match="rollout_lag and an environment do not work together: an evaluation would"):
        inputs.check_combinations()


def test_a_reward_that_takes_environments_is_refused_where_each_rank_has_its_own(monkeypatch):
    def of_moves(completions, environments):
        return [0.0 for _ in completions]

    rewards = [RewardFunction.of(of_moves)]
    inputs = RunInputs(GRPOConfig(output_dir="unused").settings, None, None, rewards, environment=object())
    assert not inputs.plays_in_shares
    monkeypatch.setattr("groupwise.lifecycle.inputs.world_size", lambda: 2)
    assert inputs.plays_in_shares
    with pytest.raises(ConfigError, match="Reward function of_moves takes environments, and of 2 ranks each plays"):
        inputs._check_ranks()
