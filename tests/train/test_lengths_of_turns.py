"""Lengths count what the policy sampled, wherever one is read: tokens that came back are nobody's doing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from scored import samples, scored_group

from groupwise.algo import Objective, objective_advantages
from groupwise.chat import completion_text
from groupwise.config import GRPOConfig
from groupwise.guards.measures import _repeats_a_token
from groupwise.rewards import RewardScorer, resolve_rewards
from groupwise.runs.records import group_record
from groupwise.train.advantages import step_advantages
from groupwise.train.batch import LogProbs
from groupwise.train.overlong import with_overlong_penalty
from groupwise.train.step_metrics import lengths, num_tokens
from groupwise.types import Call, Completion, Group, Message, Problem, StepGroup, Turn

SAID: tuple[Message, ...] = (
    {"role": "assistant", "content": "calc(2 * 3)"},
    {"role": "tool", "content": "The answer is 6."},
    {"role": "assistant", "content": "So it is seven."},
)
TURNS = (Turn(0, 3, "stop", reward=0.5, calls=(Call("calc", {"x": 2}),)), Turn(7, 9, "stop", reward=-1.0))
TURNED = Completion(
    (5, 6, 1, 30, 31, 32, 33, 8, 1),
    (-1.0, -2.0, -3.0, 0.0, 0.0, 0.0, 0.0, -4.0, -5.0),
    "stop",
    0,
    text="So it is seven.",
    turns=TURNS,
    messages=SAID,
)
PLAIN = Completion((5, 6, 7, 8, 1), (-1.0,) * 5, "stop", 0, text="six")
CHAT = Problem(0, [{"role": "user", "content": "What is 2 * 3?"}], {"answer": "6"})


def test_a_completion_knows_its_sampled_tokens():
    assert list(TURNED.sampled) == [0, 1, 2, 7, 8]
    assert TURNED.sampled_ids == (5, 6, 1, 8, 1)
    assert TURNED.num_sampled == PLAIN.num_sampled == 5
    assert PLAIN.sampled_ids == PLAIN.token_ids
    assert replace(TURNED, stop_reason="turns").is_truncated
    assert not replace(TURNED, stop_reason="failed").is_truncated


def test_metrics_of_length_count_sampled_tokens():
    found = lengths([TURNED, PLAIN])
    assert {found[f"completions/{which}_length"] for which in ("mean", "min", "max", "max_terminated")} == {5}
    assert num_tokens([Group(0, CHAT, (3,), (TURNED,))]) == 10  # the pass is over all of them


def test_a_mean_over_tokens_is_over_sampled_ones():
    group = StepGroup.of_scored(scored_group(0, CHAT, (3, 4), [TURNED], reward=[1.0]))
    record = group_record(group, 1)["completions"][0]
    assert record["logprob_mean"] == -3.0
    assert record["ids"] == list(TURNED.token_ids)
    assert record["messages"] == list(SAID)
    assert [(t["start"], t["end"], t["reward"]) for t in record["turns"]] == [(0, 3, 0.5), (7, 9, -1.0)]
    assert record["turns"][0]["calls"][0]["name"] == "calc"


def test_a_single_turn_leaves_nothing_of_turns_in_its_record():
    record = group_record(StepGroup.of_scored(scored_group(0, CHAT, (3, 4), [PLAIN], reward=[1.0])), 1)
    assert not {"messages", "turns"} & record["completions"][0].keys()


def test_scores_of_steps_end_at_places_of_the_whole_completion():
    """The reward of turn 1 reaches its three tokens, that of turn 2 all before it."""
    group = scored_group(0, CHAT, (3, 4), [TURNED, PLAIN], {"f": (-0.5, 1.5)}, (-0.5, 1.5))
    group = replace(group, steps={"f": (((3, 0.5), (9, -1.0)), None)})
    config = GRPOConfig(process_rewards=True).settings
    found = step_advantages(config, samples([group]), LogProbs(), [1.0], beta=0.0, ema_start=0.0)
    mean, std = torch.tensor([0.5, -1.0, 1.5]).double().mean(), torch.tensor([0.5, -1.0, 1.5]).double().std() + 1e-4
    first, second, whole = ((r - mean) / std for r in (0.5, -1.0, 1.5))
    expected = torch.stack([first + second] * 3 + [second] * 6)
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1, :5], whole.expand(5))


@pytest.mark.parametrize("objective", ["opo", "reinforce_pp"])
def test_estimators_that_read_lengths_count_sampled_tokens(objective):
    """A row with holes has the advantages of the same row without what was given."""
    bare = replace(TURNED, token_ids=TURNED.sampled_ids, rollout_logprob=(-1.0,) * 5, turns=(), messages=())
    longer = replace(PLAIN, token_ids=(5, 6), rollout_logprob=(-1.0,) * 2)
    found = {}
    for name, completion in (("turns", TURNED), ("bare", bare)):
        laid = samples([scored_group(0, CHAT, (3,), [completion, PLAIN, longer], reward=[1.0, 2.0, 4.0])])
        zeros_NT = torch.zeros(laid.mask_NT.shape)
        advantages = objective_advantages(
            Objective.preset(objective),
            laid.reward_N,
            laid.group_N,
            mask_NT=laid.mask_NT,
            old_logprob_NT=zeros_NT,
            ref_logprob_NT=zeros_NT,
        )
        by_token = advantages if advantages.dim() == 2 else advantages[:, None].expand(laid.mask_NT.shape)
        found[name] = by_token[laid.mask_NT]
    torch.testing.assert_close(found["turns"], found["bare"])


def test_the_length_rewards_and_the_overlong_penalty_count_sampled_tokens():
    config = GRPOConfig(overlong_cache=0.5, max_completion_length=8).settings
    scorer = with_overlong_penalty(
        RewardScorer(resolve_rewards([{"name": "length", "target": 5, "unit": "tokens"}])), config
    )
    (group,) = scorer.score([Group(0, CHAT, (3,), (TURNED, PLAIN))]).groups
    assert group.rewards == {"length": (0.0, 0.0), "overlong": (-0.25, -0.25)}


def test_functions_of_others_get_every_token_and_every_message():
    seen = {}

    def look(completions, completion_ids):
        seen.update(completions=completions, ids=completion_ids)
        return [0.0] * len(completions)

    RewardScorer(resolve_rewards(look)).score([Group(0, CHAT, (3,), (TURNED, PLAIN))])
    assert seen["ids"] == [list(TURNED.token_ids), list(PLAIN.token_ids)]
    assert seen["completions"] == [list(SAID), [{"role": "assistant", "content": "six"}]]


def test_an_answer_that_a_tool_gave_is_not_the_policys():
    assert completion_text(list(SAID)) == "So it is seven."
    (group,) = RewardScorer(resolve_rewards(["number"])).score([Group(0, CHAT, (3,), (TURNED,))]).groups
    assert group.reward == (0.0,)
    assert completion_text([{"role": "assistant", "content": None, "tool_calls": []}]) == ""


def test_a_repeated_token_is_one_that_the_policy_repeats():
    given = Completion((7,) * 20, (0.0,) * 20, "stop", 0, turns=(Turn(0, 1, "stop"), Turn(19, 20, "stop")))
    assert not _repeats_a_token(given)
    assert _repeats_a_token(replace(given, turns=()))
