"""`groupwise replay`: gives the recorded replies of a step to fresh environments, and compares what comes back.

An environment is deterministic where the same seed and the same replies give the same observations, rewards and ends.
No model is loaded: the replies are those of the record.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from groupwise.chat import content_text
from groupwise.config import Recipe
from groupwise.config.overrides import apply_overrides
from groupwise.data import load_problems
from groupwise.environments.crew import Answer, Crew, seeded
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
from groupwise.errors import RunError
from groupwise.json_values import plain_value
from groupwise.lifecycle.inputs import read_inputs
from groupwise.redact import without_hidden
from groupwise.rewards.function import callable_name
from groupwise.rewards.sandbox.backend_choice import RunSandboxes
from groupwise.runs.reader import RunReader
from groupwise.runs.records import CompletionRecord, GroupRecord
from groupwise.tool_calls import parse_calls
from groupwise.types import Call, Message, Problem

SHOWN, BEFORE = 160, 40
"""Characters shown of a text that differs, and of them those before the first that differs."""


@dataclass(frozen=True)
class Difference:
    """The first thing that is not as it was in one completion."""

    draw: int
    place: str
    """The row of the data, for people."""
    completion: int
    """Its number in the group, from 1."""
    turn: int
    """Number of the turn, from 1; 0: what the environment begins with."""
    what: str
    """"beginning", "observation", "reward", "end", "calls", "state" or "failure"."""
    recorded: Any
    found: Any

    def __str__(self) -> str:
        turn = f"turn {self.turn}" if self.turn else "before the first turn"
        recorded, found = _around(_text(self.recorded), _text(self.found))
        head = f"draw {self.draw} ({self.place} of the data), completion {self.completion}, {turn}: {self.what}"
        return f"{head}\n  recorded  {recorded}\n  found     {found}"


@dataclass(frozen=True)
class Replay:
    """What came of playing a step again."""

    step: int
    environment: str
    num_completions: int
    """Played again."""
    num_turns: int
    num_failed: int
    """Completions whose environment had failed in the run: there is nothing to compare them with."""
    differences: tuple[Difference, ...]
    """At most one a completion, in the order of the record."""
    seconds: float

    @property
    def is_equal(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        lines = [
            f"step {self.step}: {self.num_completions} completions with {self.num_turns} turns, played again in fresh "
            f"environments ({self.environment}), {self.seconds:.1f} s"
        ]
        if self.num_failed:
            lines.append(f"{self.num_failed} more had failed in the run and are left out.")
        if self.is_equal:
            return "\n".join([*lines, "equal: every observation, reward, call, state and end is the recorded one."])
        num = len(self.differences)
        lines += [f"different: {num} of {self.num_completions} completions. The first:", str(self.differences[0])]
        return "\n".join([*lines, _REMEDY])


_REMEDY = (
    "The same seed and replies have to give the same answers. Draw what is random from the seed that reset gets "
    "(random.Random(seed)), share nothing between instances, and read no clock. An environment that was changed since "
    "the run differs, too."
)


def replay(
    run: str | Path,
    step: int | None = None,
    *,
    environment: Any = None,
    problems: Any = None,
    changes: Sequence[str] = (),
) -> Replay:
    """Play a step of a run again.

    Args:
        run: the run's folder.
        step: number of the step; None: the last one that was recorded.
        environment: a class, or a function without arguments that makes one; None: the one that the recipe names.
        problems: the rows that the run was trained on; None: those that the recipe names.
        changes: keys of the recipe to change, as `--set` has them, where a file has moved.

    Raises:
        RunError: no run, no such step, a run without an environment, data that is not the run's.
        ConfigError, DataError: what the recipe names cannot be found any more.
    """
    reader = RunReader(run)
    step, groups = _groups(reader, step)
    recorded: Mapping[str, Any] = reader.config.get("recipe") or {}
    sandboxes = RunSandboxes()
    if environment is None or problems is None:
        recipe = _recipe_of(reader, recorded, changes, is_environment_given=environment is not None)
        sandboxes = RunSandboxes.of(recipe.config)
        inputs = read_inputs(recipe, recipe.folder)
        environment = environment or inputs.environment
        problems = inputs.problems if problems is None else problems
    is_pool = isinstance(environment, EnvironmentPool)
    pool = environment if is_pool else EnvironmentPool(callable_name(environment), environment)
    with sandboxes.in_force():
        return _Player(pool, load_problems(problems), recorded).play(step, groups)


def _groups(reader: RunReader, step: int | None) -> tuple[int, list[GroupRecord]]:
    """The recorded groups of the step."""
    path, steps = reader.folder.path, reader.completion_steps()
    if not steps:
        raise RunError(f'"{path}" holds no completions yet: nothing can be played again before its first step ends.')
    step = steps[-1] if step is None else step
    if step not in steps:
        raise RunError(f'"{path}" has no completions of step {step}; it has those of {_ranges(steps)}.')
    groups = reader.completions(step)
    if not all("environment" in group for group in groups):
        raise RunError(
            f'"{path}" was trained without an environment, so there is nothing to play again: its completions have '
            "one turn and no answer."
        )
    return step, groups


def _ranges(steps: Sequence[int]) -> str:
    """Steps in few words: 1 to 4, 7."""
    ends: list[list[int]] = []
    for step in steps:
        if ends and step == ends[-1][1] + 1:
            ends[-1][1] = step
        else:
            ends.append([step, step])
    return ("step " if len(steps) == 1 else "steps ") + ", ".join(
        f"{first}" if first == last else f"{first} to {last}" for first, last in ends
    )


def _recipe_of(
    reader: RunReader, recorded: Mapping[str, Any], changes: Sequence[str], *, is_environment_given: bool
) -> Recipe:
    if not recorded.get("environment"):
        given = "data" if is_environment_given else "environment"
        raise RunError(
            f'"{reader.folder.path}" was started from Python, so its record has no {given}. Play it again from Python, '
            "with the class and the rows that it was given: groupwise.replay.replay(run, step, environment=..., "
            "problems=...)."
        )
    keys: dict[str, Any] = without_hidden(recorded)
    apply_overrides(keys, changes)
    folder = reader.config.get("recipe_folder")
    return Recipe(**keys).in_folder(Path(folder) if folder else None)


@dataclass(frozen=True)
class _Answered:
    """The answer of an environment to one turn, as the run would have gone on with it."""

    messages: tuple[Message, ...]
    reward: float | None
    is_last: bool
    calls: tuple[Call, ...]
    state: str


_Play = Generator[Any, Answer, Difference | None]
"""One completion while it is played: gives a call of its environment, gets the answer."""


class _Player:
    """Plays completions of a record again, all of a step in rounds, as the run did."""

    def __init__(self, pool: EnvironmentPool, problems: Sequence[Problem], recorded: Mapping[str, Any]) -> None:
        self._pool, self._problems, self._crew = pool, problems, Crew()
        self._limit: int | None = recorded.get("max_observation_length")
        self._timeout_s = float(recorded.get("environment_timeout_s") or 120.0)
        self._num_turns = 0

    def play(self, step: int, groups: Sequence[GroupRecord]) -> Replay:
        """All completions of these groups whose environment did not fail."""
        start = perf_counter()
        chosen = [
            (group, number, completion)
            for group in groups
            for number, completion in enumerate(group["completions"], start=1)
            if completion["stop_reason"] != "failed"
        ]
        num_failed = sum(len(group["completions"]) for group in groups) - len(chosen)
        if not chosen:
            raise RunError(f"All {num_failed} completions of step {step} had failed: there is nothing to compare with.")
        plays = [self._play(*each, *begun) for each, begun in zip(chosen, self._begin(chosen), strict=True)]
        found = self._run(plays)
        self._pool.close()
        differences = tuple(each for each in found if each is not None)
        return Replay(
            step, self._pool.name, len(chosen), self._num_turns, num_failed, differences, perf_counter() - start
        )

    def _run(self, plays: Sequence[_Play]) -> list[Difference | None]:
        """Let the environments answer side by side, round after round."""
        found: list[Difference | None] = [None] * len(plays)
        waiting: dict[int, Any] = {}

        def go_on(number: int, answer: Answer | None) -> None:
            try:
                waiting[number] = plays[number].send(answer)  # type: ignore[arg-type]
            except StopIteration as end:
                waiting.pop(number, None)
                found[number] = end.value

        for number in range(len(plays)):
            go_on(number, None)
        while waiting:
            numbers = list(waiting)
            for number, answer in zip(numbers, self._crew.run([*waiting.values()], self._timeout_s), strict=True):
                go_on(number, answer)
        return found

    def _begin(
        self, chosen: Sequence[tuple[GroupRecord, int, CompletionRecord]]
    ) -> Iterator[tuple[Environment, Problem, Answer]]:
        """An environment for each, after its reset with the recorded seed."""
        problems = [self._problem_of(group) for group, _, _ in chosen]
        environments = self._pool.take(problems)
        for (group, _, _), problem, environment in zip(chosen, problems, environments, strict=True):
            seed = (group.get("environment") or {})["seed"]
            with seeded(seed):
                (answer,) = self._crew.run([functools.partial(environment.reset, problem, seed)], self._timeout_s)
            yield environment, problem, answer

    def _problem_of(self, group: GroupRecord) -> Problem:
        """The row of the data that the group answers."""
        index = group["problem"]
        problem = self._problems[index] if index < len(self._problems) else None
        if problem is None or any(
            plain_value(problem.columns.get(name), {}) != value for name, value in group["columns"].items()
        ):
            raise RunError(
                f"Row {index + 1} of the data is not the one that the run was trained on: the data has changed since. "
                "Give the run's own data (--set data.path=FILE, or problems= in Python)."
            )
        return problem

    def _play(
        self,
        group: GroupRecord,
        number: int,
        completion: CompletionRecord,
        environment: Environment,
        problem: Problem,
        begun: Answer,
    ) -> _Play:
        """Plays to the first difference; None where there is none."""
        where = functools.partial(Difference, group["draw"], problem.place, number)
        try:
            start = read_begun(begun.result())
        except Exception as error:  # the environment's own code
            return where(0, "failure", "an answer", about(error))
        if (pair := _starts(group, completion, problem, start)) is not None:
            return where(0, "beginning", *pair)
        state, turns = state_of(environment, start), completion.get("turns") or []
        for index, (turn, reply, after) in enumerate(_turns(completion, environment), start=1):
            self._num_turns += 1
            if turn.get("state") is not None and turn["state"] != state:
                return where(index, "state", turn["state"], state)
            answer = yield functools.partial(environment.step, reply)
            is_last = index == len(turns)
            whole = (yield _final(environment)) if is_last else None
            try:
                found = self._read(environment, reply, answer, whole)
            except Exception as error:  # the environment's own code
                return where(index, "failure", "an answer", about(error))
            ending = _ending(completion, turn) if is_last else False
            if (difference := _compare(turn, after, ending, found)) is not None:
                return where(index, *difference)
            state = found.state
        return None

    def _read(self, environment: Environment, reply: Reply, answer: Answer, whole: Answer | None) -> _Answered:
        observation: Observation = read_observation(answer.result())
        messages, _ = shorten(observation.messages, self._limit)
        reward = with_final(observation.reward, None if whole is None else whole.result())
        calls = reply.calls if observation.calls is None else tuple(observation.calls)
        state = state_of(environment, tuple(messages))
        return _Answered(tuple(messages), reward, observation.is_last, calls, state)


def _final(environment: Environment) -> Any:
    """The call that gives the reward of the whole completion."""
    return getattr(environment, "final_reward", lambda: None)


def _turns(
    completion: CompletionRecord, environment: Environment
) -> Iterator[tuple[Mapping[str, Any], Reply, list[Message]]]:
    """Each turn, its reply, and what came back after it."""
    said = [place for place, message in enumerate(completion["messages"]) if message["role"] == "assistant"]
    ends = [*said[1:], len(completion["messages"])]
    schemas = [tool.schema for tool in getattr(environment, "tools", ())]
    for turn, place, end in zip(completion["turns"], said, ends, strict=True):
        text = content_text(completion["messages"][place]["content"])
        ids = tuple(completion["ids"][turn["start"] : turn["end"]])
        calls = parse_calls(text, schemas) if schemas else ()
        yield turn, Reply(text, calls, ids, turn["stop_reason"]), completion["messages"][place + 1 : end]


def _starts(group: GroupRecord, completion: CompletionRecord, problem: Problem, begun: Begun) -> tuple[Any, Any] | None:
    """What the policy read first, as recorded and as found; None where they are equal."""
    messages = completion["messages"]
    num_first = next(place for place, message in enumerate(messages) if message["role"] == "assistant")
    if num_first:  # the group began differently: what is not common to it stands before the first turn
        found: Any = [{"role": "user", "content": begun}] if isinstance(begun, str) else list(begun)
        return _unless_equal(messages[:num_first], found)
    return _unless_equal(group["prompt"], extended(problem.prompt, begun))


def _ending(completion: CompletionRecord, turn: Mapping[str, Any]) -> bool | None:
    """Whether the environment ended the completion; None where the record leaves it open.

    A completion cut off in its last turn may have been ended by the environment as well.
    """
    if completion["stop_reason"] == "turns":
        return False
    if completion["stop_reason"] == "length":
        return None if turn["stop_reason"] == "length" else False
    return True


def _compare(
    turn: Mapping[str, Any], after: Sequence[Message], is_last: bool | None, found: _Answered
) -> tuple[str, Any, Any] | None:
    """The first difference of a turn: what, recorded, found."""
    ends = {True: "the completion ends", False: "it goes on"}
    pairs: list[tuple[str, Any, Any]] = []
    if is_last is not None:
        pairs.append(("end", ends[is_last], ends[found.is_last]))
    if is_last is False and not after:  # nobody was shown what came back: no room, or no turn left
        pass
    elif is_last is not None or after:
        pairs.insert(0, ("observation", list(after), list(found.messages)))
    pairs.append(("reward", turn.get("reward"), found.reward))
    pairs.append(("calls", _bare(turn.get("calls", ())), _bare(plain_value(found.calls, {}))))
    for what, recorded, other in pairs:
        if (pair := _unless_equal(recorded, other)) is not None:
            return what, *pair
    return None


def _bare(calls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Calls without their seconds."""
    return [{key: call.get(key) for key in ("name", "arguments", "error")} for call in calls]


def _unless_equal(recorded: Any, found: Any) -> tuple[Any, Any] | None:
    plain = plain_value(found, {})
    return None if recorded == plain else (recorded, plain)


def _text(value: Any) -> str:
    """A recorded value for people: messages as a conversation."""
    if isinstance(value, list) and value and all(isinstance(each, dict) and "role" in each for each in value):
        return "\n".join(f"{message['role']}: {content_text(message.get('content'))}" for message in value)
    if value is None or value == []:
        return "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _around(recorded: str, found: str) -> tuple[str, str]:
    """Both texts in one line each, from a little before the first character that differs."""
    pairs = zip(recorded, found, strict=False)
    same = next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(recorded), len(found)))
    start = max(0, same - BEFORE) if same > 2 * BEFORE else 0
    one, other = (" ".join(text[start : start + SHOWN].split()) for text in (recorded, found))
    before = "... " if start else ""
    return f"{before}{one}", f"{before}{other}"
