"""What ranks above 0 do while rank 0 leads: sample or play their share, learn from the same groups, take its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import Any

from groupwise.checkpoint.share_state import TAKE, share_state
from groupwise.checkpoint.whole import GATHER, follow_gathering
from groupwise.errors import RankError
from groupwise.lifecycle.build import RunParts, make_learner
from groupwise.rollout.spread import LOAD, SAMPLE, sample_share, with_decode
from groupwise.train.alike import check_alike
from groupwise.train.episodes import PLAY, Asked, EpisodeSampler
from groupwise.train.learner import Learner
from groupwise.train.loop import learn
from groupwise.train.schedule import Schedule
from groupwise.train.shared import LEARN
from groupwise.types import Request, ScoredGroup
from groupwise.world import Ended, World

BEGIN = "begin training"
"""The order with which rank 0 starts a run."""


class Follower:
    """A rank above 0: it carries out the orders of rank 0 until the call that rank 0 leads has ended."""

    def __init__(self, parts: RunParts, world: World, optimizers: tuple[Any, Any]) -> None:
        self._parts, self._world, self._optimizers = parts, world, optimizers
        self._learner: Learner | None = None
        self._schedule: Schedule | None = None
        self._players: dict[bool, EpisodeSampler] = {}
        """Whether prompts are chats -> what plays them."""
        self._orders: dict[str, Callable[[Any], None]] = {
            BEGIN: self._begin,
            TAKE: self._take,
            LOAD: self._load,
            SAMPLE: self._sample,
            PLAY: self._play,
            LEARN: self._learn,
            GATHER: self._gather,
        }

    def follow(self) -> Ended:
        """Carry out every order; the last one holds what the call of rank 0 has returned or raised."""
        with closing(self._parts.engine):
            while True:
                name, payload = self._world.next_order()
                if name == "end":
                    return payload  # type: ignore[no-any-return]
                is_patient = name == PLAY  # an environment may take its time
                with nullcontext() if is_patient else self._world.lockstep(f'the order "{name}"'):
                    self._orders[name](payload)

    def _begin(self, settings: dict[str, Any]) -> None:
        config = self._parts.config
        compare_settings(config.model_dump(mode="json"), settings, self._world.rank)
        check_alike(self._parts.policy.model, self._world, trained_only=False)
        self._schedule = self._parts.schedule()
        self._learner, _ = make_learner(self._parts, self._schedule, self._optimizers)

    def _take(self, _: None) -> None:
        share_state(self._trained(), self._world)

    def _load(self, version: int) -> None:
        self._parts.engine.load_weights(self._parts.policy.policy_model, version)

    def _sample(self, requests: Sequence[Request]) -> None:
        whole = with_decode(requests, self._parts.sampler.decode)
        self._world.gather(sample_share(self._parts.engine, whole, self._world), "the sampled completions")

    def _play(self, asked: Asked) -> None:
        is_chat = not isinstance(asked.problems[0].problem.prompt, str)
        if is_chat not in self._players:
            player = self._parts.sampler_of(asked.problems)  # type: ignore[arg-type]  # of the kind alone
            assert isinstance(player, EpisodeSampler)
            self._players[is_chat] = player
        try:
            replace(self._players[is_chat], sampling=asked.sampling).play(asked)
        except Exception:  # rank 0 raises it too, and orders what follows
            if self._world.is_broken:
                raise

    def _learn(self, payload: tuple[int, tuple[ScoredGroup, ...]]) -> None:
        step, groups = payload
        learn(self._trained(), groups)
        assert self._schedule is not None
        self._schedule.sync_reference(step)
        if self._parts.config.servers:  # rank 0 does so to publish; without servers an engine of its own loads them
            self._parts.policy.policy_model.refresh()

    def _gather(self, with_optimizer: bool) -> None:
        follow_gathering(self._parts.policy.policy_model, self._trained() if with_optimizer else None)

    def _trained(self) -> Learner:
        assert self._learner is not None, "training has begun"
        return self._learner


def begin(parts: RunParts, world: World) -> None:
    """Rank 0 begins to train: every rank compares its settings and weights, and makes a learner."""
    with world.lockstep("comparing the ranks"):
        world.order(BEGIN, parts.config.model_dump(mode="json"))
        check_alike(parts.policy.model, world, trained_only=False)


def compare_settings(mine: dict[str, Any], of_leader: dict[str, Any], rank: int) -> None:
    """Raise `RankError` where this rank was configured otherwise than rank 0."""
    different = sorted(key for key in mine.keys() | of_leader.keys() if mine.get(key) != of_leader.get(key))
    if different:
        key = different[0]
        raise RankError(
            f"Rank {rank} was started with {key} {mine.get(key)!r}, rank 0 with {of_leader.get(key)!r}. Every rank "
            "needs the same settings: randomness is divided among the ranks by groupwise, not by a seed of their own."
        )
