"""The nouns, in the order the data meets them.

A `Problem` is drawn; its prompt becomes a `Request`; the engine answers with `Completion`s; together they are a
`Group`. The rewards make a `ScoredGroup` of it, the step a `StepGroup`. Everything is frozen: a stage that knows more
returns a new value. Standard library only; tensors live in `train/batch.py`.

Per-token tuples have one entry for each completion token; index t is always about completion token t.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

__all__ = [
    "LOG_KEYWORDS",
    "REWARD_KEYWORDS",
    "SAMPLED_KEYWORDS",
    "Call",
    "Completion",
    "Group",
    "Message",
    "Problem",
    "Prompt",
    "Request",
    "Sampling",
    "ScoredGroup",
    "StepGroup",
    "Steps",
    "StopReason",
    "TURN_KEYWORDS",
    "TokenSet",
    "Turn",
]

Message = dict[str, Any]
"""One chat message: `{"role": ..., "content": ...}`."""

Prompt = str | list[Message]
"""Plain text, or a chat."""

SAMPLED_KEYWORDS = ("prompts", "completions", "completion_ids")
"""Keywords that hold the completions: every reward function that accepts them gets them."""

LOG_KEYWORDS = ("log_metric", "log_extra", "log_why")
"""Functions for the record, which a reward function gets where its signature names them."""

TURN_KEYWORDS = ("completion_turns",)
"""The turns of each completion, for a reward function whose signature names them."""

REWARD_KEYWORDS = (*SAMPLED_KEYWORDS, *TURN_KEYWORDS, "trainer_state", *LOG_KEYWORDS)
"""All keywords that the trainer fills in: a column of such a name cannot reach a reward function."""

Steps = tuple[tuple[int, float | None], ...]
"""Scores of the steps of a completion: (number of the token that a step ends with, from 1, included; its reward)."""

StopReason = Literal["stop", "stop_string", "length", "turns", "failed"]
"""Why a completion ended: an end token, a stop string, its tokens used up (truncated), its turns used up (truncated),
or an environment that broke down."""


def row_place(index: int) -> str:
    """What people call the row of that index, from 0: they count from 1."""
    return f"row {index + 1}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the data set."""

    index: int
    """Place in the data set, from 0 as Python counts."""
    prompt: Prompt
    columns: Mapping[str, Any] = field(default_factory=dict)
    """Every other column: answers and metadata, handed to the reward functions by name."""
    place: str = ""
    """The same place for people, who count from 1: "row 8" of the data, "line 9" of a JSONL file."""
    source: str = "the data"
    """The data set as messages call it: a file, a Hub id, or in a word what a program has handed over."""

    def __post_init__(self) -> None:
        if not self.place:
            object.__setattr__(self, "place", row_place(self.index))

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.place} of {self.source}"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn. The defaults sample the model's own distribution."""

    temperature: float = 1.0
    """Divides the logits; 0 is greedy."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int = 512
    stop_ids: tuple[int, ...] = ()
    """End tokens. The one that was sampled belongs to the completion."""
    stop: tuple[str, ...] = ()
    """Stop strings, matched in the decoded completion."""

    @property
    def is_filtered(self) -> bool:
        """Whether the kept set of a token can be smaller than the vocabulary."""
        return self.temperature > 0 and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)


@dataclass(frozen=True, slots=True)
class Request:
    """`num_completions` completions that an engine is to sample for one prompt, in token ids."""

    prompt_ids: tuple[int, ...]
    num_completions: int
    sampling: Sampling
    seed: tuple[int, ...] = (0,)
    """Randomness belongs to the completion: number i draws from the stream (*seed, i), wherever it is batched."""
    decode: Callable[[Sequence[int]], str] | None = None
    """Needed for stop strings alone."""
    label: str = "a prompt"
    """What errors call it."""
    first: int = 0
    """Number of the first of these completions in its group: a group may be sampled in parts."""
    max_tokens: int | None = None
    """Tokens of a completion at most, where it is fewer than the sampling's; requests that differ in it alone are
    sampled together."""

    session: tuple[int, ...] | None = None
    """A hint: the prompt goes on from what this session, or the one without its last number, has seen under these
    weights. An engine may keep what it has computed of that."""

    @property
    def limit(self) -> int:
        """Tokens of a completion at most."""
        most = self.sampling.max_tokens
        return most if self.max_tokens is None else min(self.max_tokens, most)


@dataclass(frozen=True, slots=True, eq=False)
class TokenSet(Sequence[int]):
    """Different token ids in ascending order, in the smaller of two forms."""

    data: bytes
    """32 bits an id, or one bit for each token of the vocabulary, the lowest bit of a byte first."""
    is_mask: bool = False
    """Whether it is the second form."""

    @classmethod
    def of(cls, ids: Iterable[int], *, as_mask: bool = False) -> TokenSet:
        """The set of these ids."""
        ordered = sorted(ids)
        if not as_mask:
            return cls(array("i", ordered).tobytes())
        mask = bytearray(ordered[-1] // 8 + 1)
        for token in ordered:
            mask[token // 8] |= 1 << token % 8
        return cls(bytes(mask), is_mask=True)

    def _ids(self) -> list[int]:
        if not self.is_mask:
            return memoryview(self.data).cast("i").tolist()
        return [8 * place + bit for place, byte in enumerate(self.data) for bit in range(8) if byte >> bit & 1]

    def __len__(self) -> int:
        return int.from_bytes(self.data).bit_count() if self.is_mask else len(self.data) // 4

    def __getitem__(self, index: Any) -> Any:
        return self._ids()[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._ids())

    def __contains__(self, token: object) -> bool:
        return token in self._ids()

    def index(self, token: int, *bounds: int) -> int:
        return self._ids().index(token, *bounds)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a tool in a turn, as it was written or as it ended."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    """What was wrong with it: with its writing, or in the tool."""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Turn:
    """One stretch of sampled tokens of a completion, and what came of it."""

    start: int
    """Its first token in the completion, from 0. The tokens between two turns are given: nobody sampled them."""
    end: int
    """One past its last token."""
    stop_reason: StopReason
    reward: float | None = None
    """What the environment gave for it; None is unscored, which is not 0."""
    calls: tuple[Call, ...] = ()
    seconds: float = 0.0
    """Of the environment's answer."""
    state: str | None = None
    """The state that the turn was taken in: equal states of a group can be compared."""
    is_cut: bool = False
    """Whether what came back was longer than the policy is shown."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One sampled answer, or several turns with what an environment answered between them."""

    token_ids: tuple[int, ...]
    """The tokens after the prompt, the end token included: sampled ones, and given ones between the turns."""
    rollout_logprob: tuple[float, ...]
    """Natural log-probability of each token under the distribution it was sampled from; 0 for a given token."""
    stop_reason: StopReason
    policy_version: int
    text: str = ""
    """The decoded tokens, of the last turn where there are several, but those that end a completion, padding and begin
    tokens. A view: the ids are the truth."""
    kept_ids: tuple[TokenSet, ...] | None = None
    """With top-k, top-p or min-p: the tokens each draw chose among; empty for a given token."""
    turns: tuple[Turn, ...] = ()
    """Without any, every token was sampled, in one turn."""
    messages: tuple[Message, ...] = ()
    """What was said after the prompt, where an environment answered: the policy's turns and the observations."""

    @property
    def is_truncated(self) -> bool:
        return self.stop_reason in ("length", "turns")

    @property
    def sampled(self) -> Sequence[int]:
        """The places of the sampled tokens, in order."""
        if not self.turns:
            return range(len(self.token_ids))
        return [place for turn in self.turns for place in range(turn.start, turn.end)]

    @property
    def sampled_ids(self) -> tuple[int, ...]:
        """The sampled tokens alone."""
        return tuple(self.token_ids[place] for place in self.sampled) if self.turns else self.token_ids

    @property
    def num_sampled(self) -> int:
        """The completion's length, as lengths are counted: given tokens are nobody's doing."""
        return sum(turn.end - turn.start for turn in self.turns) if self.turns else len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Group:
    """G completions sampled for one draw."""

    draw: int
    """Running number of the draw: the identity of the group. Two draws of one problem are two groups."""
    problem: Problem
    prompt_ids: tuple[int, ...]
    completions: tuple[Completion, ...]
    opening: str = ""
    """What the completions go on from: tags that the prompt ends in, or the assistant's message that they continue."""
    environment: tuple[str, int] | None = None
    """Name of the environment that answered, and the seed that it began with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredGroup(Group):
    """A group with its rewards."""

    rewards: Mapping[str, tuple[float | None, ...]]
    """Reward function -> one number a completion; `None` is unscored, which is not 0."""
    reward: tuple[float | None, ...]
    """Weighted sum of the shaped rewards of each completion; `None` where no function scored it."""
    has_signal: bool
    """Whether two rewards of the group differ by more than rounding; without that every advantage is 0."""
    shaped: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    """Reward function -> its rewards after clipping, normalising and gating; absent where they are unshaped."""
    extras: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    """Column that a reward function logged -> its value for each completion."""
    steps: Mapping[str, tuple[Steps | None, ...]] = field(default_factory=dict)
    """Reward function that scores steps -> those of each completion; `None` where it gave one number."""
    greedy_reward: float | None = None
    """Reward of the greedy completion of the same prompt, where the objective compares with it."""

    @classmethod
    def of(cls, group: Group, **scores: Any) -> ScoredGroup:
        """The group with its rewards."""
        return cls(**{each.name: getattr(group, each.name) for each in fields(Group)}, **scores)

    @property
    def shaped_rewards(self) -> Mapping[str, tuple[float | None, ...]]:
        """Reward function -> the rewards that its weight multiplies."""
        return {**self.rewards, **self.shaped}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepGroup(ScoredGroup):
    """A scored group and what its step made of it."""

    advantages: tuple[float, ...] = ()
    """One a completion (the mean over tokens where they differ by token); empty for a group that was dropped."""
    is_used: bool = True
    """False for a group that dynamic sampling dropped for want of signal."""

    @classmethod
    def of_scored(cls, group: ScoredGroup, *, advantages: tuple[float, ...] = (), is_used: bool = True) -> StepGroup:
        """The scored group with what its step made of it."""
        scored = {each.name: getattr(group, each.name) for each in fields(ScoredGroup)}
        return cls(**scored, advantages=advantages, is_used=is_used)
