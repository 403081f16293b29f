"""Groups as tensors: nothing is lost, and rows taken out are the rows that were put in."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scored import samples, scored_group

from groupwise.train.batch import Batch, LogProbs, reward_matrix, rows_of
from groupwise.train.step import with_advantages
from groupwise.types import Completion, Problem, ScoredGroup


def make_batch(groups: list[ScoredGroup]) -> Batch:
    return Batch.of(samples(groups), LogProbs(), torch.zeros(sum(len(g.completions) for g in groups)))


rewards = st.one_of(st.none(), st.floats(-5, 5))
completions = st.builds(
    lambda ids, reason: Completion(tuple(ids), tuple(-0.5 - i for i in ids), reason, 0),
    st.lists(st.integers(0, 9), min_size=1, max_size=6),
    st.sampled_from(["stop", "length", "stop_string"]),
)


@st.composite
def groups(draw) -> list[ScoredGroup]:
    found = []
    for number in range(draw(st.integers(1, 4))):
        answers = tuple(draw(st.lists(completions, min_size=1, max_size=4)))
        scored = {name: tuple(draw(rewards) for _ in answers) for name in ("f", "g")}
        prompt = tuple(draw(st.lists(st.integers(0, 9), min_size=1, max_size=3)))
        found.append(scored_group(number, Problem(0, "p"), prompt, answers, scored))
    return found


@given(groups())
@settings(max_examples=40, deadline=None)
def test_every_completion_is_a_row_in_order(drawn):
    batch = make_batch(drawn)
    pairs = [(group, completion) for group in drawn for completion in group.completions]
    assert len(batch) == len(pairs)
    for n, (group, completion) in enumerate(pairs):
        length = len(completion.token_ids)
        assert batch.rows.prompt_ids[n] == group.prompt_ids
        assert batch.rows.token_ids[n] == completion.token_ids
        assert batch.mask_NT[n].tolist() == [t < length for t in range(batch.mask_NT.shape[1])]
        assert batch.rollout_logprob_NT[n, :length].tolist() == list(completion.rollout_logprob)
        assert drawn[batch.group_N[n]] is group
        assert bool(batch.is_truncated_N[n]) == (completion.stop_reason == "length")


@given(groups())
@settings(max_examples=40, deadline=None)
def test_rewards_stand_by_function_and_not_judged_is_nan(drawn):
    matrix = reward_matrix(drawn)
    assert matrix.dtype == torch.float64
    flat = [(g.rewards["f"][i], g.rewards["g"][i]) for g in drawn for i in range(len(g.completions))]
    for found, expected in zip(matrix.tolist(), flat, strict=True):
        assert [None if value != value else value for value in found] == list(expected)


@given(groups(), st.randoms(use_true_random=False), st.booleans())
@settings(max_examples=40, deadline=None)
def test_selected_rows_are_cut_and_not_changed(drawn, dice, by_token):
    batch = make_batch(drawn)
    shape = batch.mask_NT.shape
    batch = replace(batch, old_logprob_NT=torch.randn(shape), advantages=torch.randn(shape if by_token else shape[:1]))
    chosen = dice.sample(range(len(batch)), dice.randint(1, len(batch)))
    part = batch.select(chosen)
    width = max(len(batch.rows.token_ids[n]) for n in chosen)
    assert part.rows.token_ids == [batch.rows.token_ids[n] for n in chosen]
    for name in ("mask_NT", "rollout_logprob_NT", "old_logprob_NT"):
        assert torch.equal(getattr(part, name), getattr(batch, name)[chosen, :width]), name
    assert torch.equal(part.advantages, batch.advantages[chosen][..., :width] if by_token else batch.advantages[chosen])
    assert torch.equal(part.group_N, batch.group_N[chosen])
    assert part.ref_logprob_NT is None


@given(groups())
@settings(max_examples=20, deadline=None)
def test_the_record_gets_one_advantage_a_completion(drawn):
    batch = make_batch(drawn)
    advantages = torch.arange(len(batch), dtype=torch.float32)
    plain = with_advantages(drawn, replace(batch, advantages=advantages))
    assert [a for g in plain for a in g.advantages] == advantages.tolist()
    by_token = advantages[:, None] * torch.ones(batch.mask_NT.shape) + 100.0 * ~batch.mask_NT
    averaged = with_advantages(drawn, replace(batch, advantages=by_token))
    assert [a for g in averaged for a in g.advantages] == advantages.tolist()


def test_kept_sets_travel_with_their_rows():
    kept = ((1, 2), (3,))
    answers = (Completion((1, 3), (0.0, 0.0), "stop", 0, kept_ids=kept), Completion((2,), (0.0,), "stop", 0))
    group = scored_group(0, Problem(0, "p"), (5,), answers, {"f": (1.0, 0.0)})
    assert rows_of([group]).kept_ids == [kept, None]
    assert rows_of([replace(group, completions=answers[1:])]).kept_ids is None
