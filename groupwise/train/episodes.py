"""Completions of several turns: the policy and an environment take turns, all completions of a call in step.

Each round samples one turn of every completion that goes on, lets their environments answer side by side, and bridges
to the next turn. Answers are taken in the order of the completions, never of their arrival: the same seed gives the
same run, whatever the delays.

Of several ranks each plays a share of the completions, with its own engine and its own environments. What a group
begins with is compared over all of it, so that the number of ranks changes neither prompts nor tokens.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from groupwise.bridge import Bridge
from groupwise.chat import OPENING, completion_decoder, decode_completion, opening
from groupwise.config import Settings
from groupwise.data.order import Draw
from groupwise.data.prepare import PreparedProblem, PreparedProblems
from groupwise.environments.crew import Crew, seeded
from groupwise.environments.environment import Environment, Observation, Reply
from groupwise.environments.pool import EnvironmentPool
from groupwise.environments.read_answers import (
    Begun,
    about,
    extended,
    read_begun,
    read_observation,
    shorten,
    state_of,
    with_final,
)
from groupwise.environments.shown_tools import ShownTools
from groupwise.errors import DataError, EnvironmentFailedError, GroupwiseError
from groupwise.rollout.engine import Engine
from groupwise.train.sampler import EVALUATION, GroupSampler, OnProgress, make_sampling
from groupwise.types import Completion, Group, Message, Problem, Request, Sampling, StopReason, TokenSet, Turn
from groupwise.world import World, stretch

_log = logging.getLogger(__name__)

PLAY = "play"
"""The order that rank 0 gives with what is to be played."""


@dataclass(frozen=True)
class Asked:
    """Groups that are to be played."""

    problems: tuple[PreparedProblem, ...]
    """One a draw."""
    draws: tuple[int, ...]
    """Numbers of the draws."""
    num_completions: int
    """Of each draw."""
    step: int
    sampling: Sampling


@dataclass(frozen=True)
class Played:
    """One completion that has been played, on whichever rank."""

    prompt_ids: tuple[int, ...]
    """Empty where its environment has not begun."""
    begun: Begun
    completion: Completion
    fault: str | None = None
    """What its environment broke down with."""
    error: BaseException | None = None
    """The same as it was raised; it does not travel between ranks."""


@dataclass
class Episode:
    """One completion while it is played."""

    prepared: PreparedProblem
    seed: tuple[int, ...]
    """Of its first turn's tokens: those of its request, and its number in it."""
    environment: Environment
    prompt_ids: tuple[int, ...] = ()
    budget: int = 0
    """Tokens of the completion at most, given ones counted."""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    kept: list[TokenSet] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    begun: Begun = ()
    """What `reset` gave."""
    state: str = ""
    text: str = ""
    version: int = 0
    stop_reason: StopReason | None = None
    error: BaseException | None = None

    @property
    def draw(self) -> int:
        return self.seed[-2]

    @property
    def number(self) -> int:
        """Of the completion in its group, from 0."""
        return self.seed[-1]

    @property
    def is_open(self) -> bool:
        return self.stop_reason is None

    def fail(self, error: BaseException) -> None:
        self.stop_reason, self.error = "failed", error

    def give(self, ids: Sequence[int]) -> None:
        """Add tokens that nobody sampled."""
        self.token_ids += ids
        self.logprobs += [0.0] * len(ids)
        self.kept += [TokenSet(b"")] * len(ids)

    def take(self, sampled: Completion, text: str) -> None:
        """Add a turn of the policy."""
        start = len(self.token_ids)
        self.token_ids += sampled.token_ids
        self.logprobs += sampled.rollout_logprob
        self.kept += sampled.kept_ids or ()
        self.turns.append(Turn(start, len(self.token_ids), sampled.stop_reason, state=self.state))
        self.version, self.text = sampled.policy_version, text

    def played(self, *, is_alone: bool) -> Played:
        """What the group is made of; `is_alone`: it stays in this process."""
        fault = None if self.error is None else about(self.error)
        return Played(self.prompt_ids, self.begun, self.finish(), fault, self.error if is_alone else None)

    def finish(self) -> Completion:
        """The completion; without given tokens it has the one turn that it always had."""
        assert self.stop_reason is not None
        has_kept = bool(self.turns) and len(self.kept) == len(self.token_ids)
        return Completion(
            tuple(self.token_ids),
            tuple(self.logprobs),
            self.stop_reason,
            self.version,
            text=self.text,
            kept_ids=tuple(self.kept) if has_kept else None,
            turns=tuple(self.turns),
            messages=tuple(self.messages),
        )


@dataclass(frozen=True)
class Rules:
    """How completions with an environment are played."""

    max_turns: int
    max_turn_length: int | None
    max_observation_length: int | None
    """Characters of what comes back."""
    timeout_s: float
    """Of a call of an environment."""
    max_completion_length: int
    context: int | None
    """Tokens of the model's context, where it has a bound."""

    @classmethod
    def of(cls, config: Settings, context: int | None) -> Rules:
        return cls(
            config.max_turns,
            config.max_turn_length,
            config.max_observation_length,
            config.environment_timeout_s,
            config.max_completion_length,
            context,
        )


@dataclass(frozen=True)
class EpisodeSampler(GroupSampler):
    """Samples groups whose completions an environment answers."""

    pool: EnvironmentPool
    bridge: Bridge
    rules: Rules
    tools: ShownTools
    """The tools of its environments."""
    crew: Crew = field(default_factory=Crew)
    world: World = field(default_factory=World)
    """The ranks that play."""

    @classmethod
    def playing(
        cls,
        engine: Engine,
        problems: PreparedProblems,
        config: Settings,
        tokenizer: Any,
        stop_ids: tuple[int, ...],
        pool: EnvironmentPool,
        context: int | None,
        world: World | None = None,
    ) -> EpisodeSampler:
        """As the configuration samples and plays; `context`: tokens that the model can attend to, `world`: the ranks
        that play, each with an engine of its own.

        Raises:
            ConfigError: the chat template cannot go on after an answer (see `Bridge.check`).
        """
        is_chat = not isinstance(problems[0].problem.prompt, str)
        bridge = Bridge(tokenizer, stop_ids, is_chat, config.turn_format, config.chat_template_kwargs)
        bridge.check()
        sampling = make_sampling(config, stop_ids)
        return cls(
            engine,
            problems,
            sampling,
            completion_decoder(tokenizer, sampling),
            config.seed,
            pool,
            bridge,
            Rules.of(config, context),
            ShownTools(pool, tokenizer, config.chat_template_kwargs, config.system_prompt),
            world=world or World(),
        )

    def sample(
        self,
        draws: Sequence[Draw],
        num_completions: int,
        step: int,
        on_progress: OnProgress = lambda done, total: None,
    ) -> list[Group]:
        """The groups of `draws`, in their order.

        Raises:
            EnvironmentFailedError: more than half of the environments have failed.
        """
        problems = tuple(self.problems[draw.row] for draw in draws)
        asked = Asked(problems, tuple(draw.number for draw in draws), num_completions, step, self.sampling)
        self.world.order(PLAY, asked)
        played = self.play(asked, on_progress)
        self._require_most(asked, played)
        of_draw = [played[i : i + num_completions] for i in range(0, len(played), num_completions)]
        parts = zip(asked.draws, problems, of_draw, self._seeds(asked), strict=True)
        return [self._group_of(*each) for each in parts]

    def play(self, asked: Asked, on_progress: OnProgress = lambda done, total: None) -> list[Played]:
        """The completions of all ranks, group by group; this rank plays its share of them."""
        episodes: list[Episode] = []

        def begin() -> list[Begun | None]:
            episodes.extend(self._begin(asked))
            on_progress(0, len(episodes))
            return self._reset(asked, episodes)

        begun = [each for share in self.world.gather_from(begin, "what environments begin with") for each in share]
        shares = self.world.gather_from(lambda: self._play(asked, episodes, begun, on_progress), "what was played")
        return [each for share in shares for each in share]

    def _begin(self, asked: Asked) -> list[Episode]:
        """The episodes of this rank."""
        count = asked.num_completions
        mine = stretch(len(asked.draws) * count, self.world.rank, self.world.size)
        environments = self.pool.take([asked.problems[n // count].problem for n in mine])
        return [
            Episode(
                asked.problems[n // count], (self.seed, asked.step, asked.draws[n // count], n % count), environment
            )
            for n, environment in zip(mine, environments, strict=True)
        ]

    def _seeds(self, asked: Asked) -> list[int]:
        """Of the environments, one a group."""
        return [environment_seed(self.seed, draw, asked.step) for draw in asked.draws]

    def _reset(self, asked: Asked, episodes: Sequence[Episode]) -> list[Begun | None]:
        """Let every environment begin: one after another, because the global generators are seeded for each.

        What each begins with; None where it has failed.
        """
        seeds = dict(zip(asked.draws, self._seeds(asked), strict=True))
        for episode in episodes:
            seed = seeds[episode.draw]
            call = functools.partial(episode.environment.reset, episode.prepared.problem, seed)
            with seeded(seed):
                (answer,) = self.crew.run([call], self.rules.timeout_s)
            try:
                episode.begun = read_begun(answer.result())
                episode.state = state_of(episode.environment, episode.begun)
            except Exception as error:
                episode.fail(fault_of(error))
        return [episode.begun if episode.is_open else None for episode in episodes]

    def _play(
        self, asked: Asked, episodes: Sequence[Episode], begun: Sequence[Begun | None], on_progress: OnProgress
    ) -> list[Played]:
        """The completions of this rank, from their first turn to their reward."""
        requests: list[_Round] = []
        for number, draw in enumerate(asked.draws):
            mine = [episode for episode in episodes if episode.draw == draw]
            requests += self._first_requests(mine, begun[number * asked.num_completions :][: asked.num_completions])
        while requests:
            self._sample_turn(requests)
            self._answer([episode for episode, _ in self._flat(requests)])
            on_progress(sum(not episode.is_open for episode in episodes), len(episodes))
            requests = [self._next_request(episode) for episode in episodes if episode.is_open]
        self._reward_whole(episodes)
        if failed := [episode.environment for episode in episodes if episode.error is not None]:
            self.pool.discard(failed)
        return [episode.played(is_alone=self.world.size == 1) for episode in episodes]

    def _first_requests(self, mine: Sequence[Episode], begun: Sequence[Begun | None]) -> list[_Round]:
        """One for the whole group where its environments begin alike; else each goes on from what is common.

        `mine` is this rank's part of the group, `begun` what every environment of the group begins with.
        """
        playing = [episode for episode in mine if episode.is_open]
        if not playing:
            return []
        prompts = [None if each is None else self._prompt_of(playing[0].prepared, each) for each in begun]
        different = {ids: None for ids in prompts if ids is not None}
        common = next(iter(different)) if len(different) == 1 else _common_start(list(different))
        for episode in playing:
            ids = prompts[episode.number]
            assert ids is not None, "it has begun"
            self._give_rest(episode, common, ids)
        if None in prompts or len(different) > 1:
            return [self._next_request(episode) for episode in playing]
        first = mine[0]
        request = self._request(first, first.seed[:-1], len(mine))
        return [_Round(replace(request, first=first.number), tuple(mine))]

    def _give_rest(self, episode: Episode, common: tuple[int, ...], ids: tuple[int, ...]) -> None:
        """Begin from what is common to the prompts of the group; the rest of this one's is given."""
        episode.prompt_ids = common
        episode.budget = self._budget(episode, len(ids) - len(common))
        if len(common) < len(ids):
            episode.messages += [{"role": "user", "content": b} for b in [episode.begun] if isinstance(b, str)]
            episode.messages += [m for m in episode.begun if not isinstance(m, str)]
        episode.give(ids[len(common) :])

    def _prompt_of(self, prepared: PreparedProblem, begun: Begun) -> tuple[int, ...]:
        if not begun:
            return prepared.prompt_ids
        prompt, template_kwargs = self.tools(prepared.problem)
        bridge = replace(self.bridge, template_kwargs=template_kwargs)
        return bridge.prompt_ids(prompt, begun, self.tools.system_prompt)

    def _budget(self, episode: Episode, num_given: int) -> int:
        budget = self.rules.max_completion_length
        if self.rules.context is not None:
            budget = min(budget, self.rules.context - len(episode.prompt_ids))
        if budget <= num_given:
            problem = episode.prepared.problem
            raise DataError(
                f"{problem.label}: its prompt has {len(episode.prompt_ids) + num_given} tokens with what environment "
                f"{self._name_of(problem)} begins with, which leaves no room for a completion "
                f"(max_completion_length {self.rules.max_completion_length}, context {self.rules.context})."
            )
        return budget

    def _next_request(self, episode: Episode) -> _Round:
        seed = (*episode.seed, len(episode.turns)) if episode.token_ids else episode.seed
        return _Round(self._request(episode, seed, 1), (episode,))

    def _request(self, episode: Episode, seed: tuple[int, ...], num_completions: int) -> Request:
        left = episode.budget - len(episode.token_ids)
        return Request(
            episode.prompt_ids + tuple(episode.token_ids),
            num_completions,
            self.sampling,
            seed=seed,
            decode=self.decode,
            label=episode.prepared.problem.label,
            max_tokens=min(left, self.rules.max_turn_length or left),
            session=seed if num_completions > 1 else episode.seed,
        )

    def _sample_turn(self, rounds: Sequence[_Round]) -> None:
        with self.world.lockstep("sampling"):  # the answers are the environments', which may take their time
            for index, sampled in self.engine.generate([each.request for each in rounds]):
                for episode, completion in zip(rounds[index].episodes, sampled, strict=True):
                    episode.take(completion, self.decode(completion.token_ids))

    @staticmethod
    def _flat(rounds: Sequence[_Round]) -> list[tuple[Episode, Request]]:
        return [(episode, each.request) for each in rounds for episode in each.episodes]

    def _answer(self, episodes: Sequence[Episode]) -> None:
        """Let the environments answer side by side, then go on with each in its order."""
        replies = [self._reply(episode) for episode in episodes]
        calls = [functools.partial(e.environment.step, reply) for e, reply in zip(episodes, replies, strict=True)]
        for episode, reply, answer in zip(episodes, replies, self.crew.run(calls, self.rules.timeout_s), strict=True):
            episode.messages.append(_said(reply))
            try:
                self._go_on(episode, reply, read_observation(answer.result()), answer.seconds)
            except Exception as error:
                episode.fail(fault_of(error))

    def _reply(self, episode: Episode) -> Reply:
        turn = episode.turns[-1]
        ids = tuple(episode.token_ids[turn.start : turn.end])
        before = (*episode.prompt_ids, *episode.token_ids[: turn.start])
        calls = self.tools.calls(episode.prepared.problem, episode.text, ids, before)
        return Reply(episode.text, calls, ids, turn.stop_reason)

    def _go_on(self, episode: Episode, reply: Reply, observation: Observation, seconds: float) -> None:
        """What came back: the turn's reward, and given tokens where there is room for another turn."""
        messages, is_cut = shorten(observation.messages, self.rules.max_observation_length)
        calls = reply.calls if observation.calls is None else observation.calls
        turn = replace(episode.turns[-1], reward=observation.reward, calls=tuple(calls), seconds=seconds, is_cut=is_cut)
        episode.turns[-1] = turn
        if observation.is_last:
            episode.messages += messages
            episode.stop_reason = turn.stop_reason
            return
        given = self.bridge.given(messages, is_ended=episode.token_ids[-1] in self.bridge.stop_ids)
        if len(episode.token_ids) + len(given) >= episode.budget:
            episode.stop_reason = "length"
        elif len(episode.turns) >= self.rules.max_turns:
            episode.stop_reason = "turns"
        else:
            episode.messages += messages
            episode.give(given)
            episode.state = state_of(episode.environment, tuple(messages))

    def _reward_whole(self, episodes: Sequence[Episode]) -> None:
        """Add an environment's reward for the whole completion to that of its last turn."""
        played = [e for e in episodes if e.stop_reason != "failed" and hasattr(e.environment, "final_reward")]
        calls = [getattr(episode.environment, "final_reward") for episode in played]  # noqa: B009
        for episode, answer in zip(played, self.crew.run(calls, self.rules.timeout_s), strict=True):
            try:
                last = episode.turns[-1]
                episode.turns[-1] = replace(last, reward=with_final(last.reward, answer.result()))
            except Exception as error:
                episode.fail(fault_of(error))

    def _name_of(self, problem: Problem) -> str:
        return self.pool.pool_of(problem).name

    def _require_most(self, asked: Asked, played: Sequence[Played]) -> None:
        """Warn of environments that have failed; too many end the run."""
        failed = [n for n, each in enumerate(played) if each.fault is not None]
        if not failed:
            return
        first, problem = played[failed[0]], asked.problems[failed[0] // asked.num_completions].problem
        what = (
            f"{len(failed)} of {len(played)} completions are unscored because environment {self._name_of(problem)} "
            f"failed. The first, for {problem.label}, after {len(first.completion.turns)} turns: {first.fault}"
        )
        if 2 * len(failed) > len(played):
            raise EnvironmentFailedError(f"{what} That is more than half, so the run ends here.") from first.error
        _log.warning(what)

    def _group_of(self, draw: int, prepared: PreparedProblem, played: Sequence[Played], seed: int) -> Group:
        begun = next((each for each in played if each.prompt_ids), played[0])
        problem = prepared.problem
        if all(each.begun == begun.begun for each in played):
            problem = replace(problem, prompt=extended(problem.prompt, begun.begun))
        opened = prepared.opening
        if begun.begun:
            end = decode_completion(self.bridge.tokenizer, begun.prompt_ids[-OPENING:], skip_special_tokens=False)
            opened = opening(problem.prompt, end)
        completions = tuple(each.completion for each in played)
        ids = begun.prompt_ids or prepared.prompt_ids
        return Group(draw, problem, ids, completions, opened, (self._name_of(problem), seed))


@dataclass(frozen=True)
class _Round:
    """A request, and the completions that it goes on with."""

    request: Request
    episodes: tuple[Episode, ...]


def fault_of(error: Exception) -> Exception:
    """An environment's fault; a mistake that ends the run is raised again, such as a role that no template takes."""
    if isinstance(error, GroupwiseError) and not isinstance(error, EnvironmentFailedError):
        raise error
    return error


def environment_seed(seed: int, draw: int, step: int) -> int:
    """What the environments of a group begin with, below 2**32: numpy's bound. An evaluation has seeds of its own."""
    of = (seed, EVALUATION, draw) if step == EVALUATION else (seed, draw)
    return int.from_bytes(hashlib.blake2s(repr(of).encode(), digest_size=4).digest())


def _said(reply: Reply) -> Message:
    """A turn as a message, with its calls as the ecosystem writes them."""
    said: Message = {"role": "assistant", "content": reply.text}
    if not reply.calls:
        return said
    functions = [{"name": call.name, "arguments": dict(call.arguments)} for call in reply.calls]
    return {**said, "tool_calls": [{"type": "function", "function": function} for function in functions]}


def _common_start(prompts: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The tokens that all of them begin with, the last token of the shortest never among them: it is given, too."""
    columns = zip(*(ids[:-1] for ids in prompts), strict=False)
    return tuple(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
