"""A completion of several turns trains like one single-turn row for each turn: the twin test, packed and plain.

The twin of a K-turn completion is K rows whose prompts are everything before a turn and whose completions are the turn.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny import VOCABULARY, random_ids, random_rows, tiny_model, with_lora
from torch import Tensor

from groupwise.algo import Objective, StepWeights, policy_loss, step_weights
from groupwise.policy.packing import CompletionRows, micro_batches
from groupwise.policy.policy_model import PolicyModel, Scoring, completion_mask
from groupwise.train.batch import rows_of
from groupwise.types import Completion, Group, Problem, TokenSet, Turn

from .test_architectures import FAST, assert_same_gradients, lora_model, networks

SPANS = [
    ((0, 3), (5, 9), (12, 15)),
    ((0, 15),),
    ((2, 4), (4, 15)),  # tokens were given before the first turn; two turns with nothing between them
    ((0, 1), (10, 15)),
    ((0, 6), (7, 15)),
]
OBJECTIVE = Objective.preset("grpo", beta=0.3)


def turned_rows() -> tuple[CompletionRows, list[tuple[tuple[int, int], ...]]]:
    """Two groups of completions with holes."""
    rows = random_rows(prompts=(9, 14), completions=((15, 15, 15), (15, 15)))
    return replace(rows, sampled=[[t for span in spans for t in range(*span)] for spans in SPANS]), SPANS


def twin_rows(rows: CompletionRows, spans: list[tuple[tuple[int, int], ...]]) -> CompletionRows:
    """One row a turn, each a group of its own."""
    parts = [(row, *span) for row, each in enumerate(spans) for span in each]
    return CompletionRows(
        [rows.prompt_ids[row] + rows.token_ids[row][:start] for row, start, _ in parts],
        [rows.token_ids[row][start:end] for row, start, end in parts],
        list(range(len(parts))),
    )


def by_turn(values_NT: Tensor, width: int) -> Tensor:
    """What belongs to the rows of the twin, one row a turn."""
    cut = [values_NT[row, slice(*span)] for row, each in enumerate(SPANS) for span in each]
    return torch.stack([torch.nn.functional.pad(part, (0, width - len(part))) for part in cut])


def loss_of(
    policy_model: PolicyModel, rows: CompletionRows, weights: StepWeights, advantages: Tensor, others: dict[str, Tensor]
) -> tuple[float, dict[str, Tensor]]:
    """The loss, and its gradients, of rows cut into micro-batches."""
    policy_model.model.zero_grad()
    total = 0.0
    for part in micro_batches(rows, 60):
        chosen = rows.select(part)
        mask_NT = completion_mask(chosen, policy_model.device)
        width = mask_NT.shape[1]
        with policy_model.pass_over(chosen, Scoring()) as scores:
            cut = {name: values[part, :width] for name, values in others.items()}
            loss, _ = policy_loss(
                OBJECTIVE,
                scores.logprob_NT,
                mask_NT,
                advantages[part, :width],
                step_weights=weights[torch.tensor(part), :width],
                **cut,
            )
            loss.backward()
        total += float(loss.detach())
    return total, {n: p.grad.clone() for n, p in policy_model.model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("is_fast", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("name", FAST)
def test_a_completion_of_turns_trains_like_its_turns_alone(name, is_fast):
    policy_model = networks(lora_model(name))[is_fast]
    rows, spans = turned_rows()
    twins = twin_rows(rows, spans)
    generator = torch.Generator().manual_seed(3)
    mask_NT = completion_mask(rows, policy_model.device)
    advantage_N = torch.randn(len(rows), generator=generator)
    now_NT = policy_model.score(rows, Scoring()).logprob_NT
    others = {
        key: (now_NT + spread * torch.randn(mask_NT.shape, generator=generator)) * mask_NT
        for key, spread in (("old_logprob_NT", 0.1), ("ref_logprob_NT", 0.3))
    }
    weights = step_weights(OBJECTIVE, mask_NT, torch.tensor(rows.group), advantage_N)
    advantage_NT = advantage_N[:, None].expand(mask_NT.shape)
    width = completion_mask(twins, policy_model.device).shape[1]
    cut = StepWeights(*(by_turn(w, width) for w in (weights.weight_NT, weights.keep_NT)))

    found, gradients = loss_of(policy_model, rows, weights, advantage_NT, others)
    apart = {key: by_turn(values, width) for key, values in others.items()}
    expected, of_twins = loss_of(policy_model, twins, cut, by_turn(advantage_NT, width), apart)
    assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert any(float(g.abs().max()) > 1e-3 for g in of_twins.values())
    assert_same_gradients(gradients, of_twins, tolerance=1e-5)


@pytest.mark.parametrize("is_fast", [True, False], ids=["packed", "plain"])
def test_scores_of_a_turn_are_those_of_the_turn_alone(is_fast):
    policy_model = networks(with_lora(tiny_model("gemma3")))[is_fast]
    rows, spans = turned_rows()
    twins = twin_rows(rows, spans)
    alone = policy_model.score(twins, Scoring(temperature=0.7, repetition_penalty=1.3))
    found = policy_model.score(rows, Scoring(temperature=0.7, repetition_penalty=1.3))
    for together_NT, alone_NT in ((found.logprob_NT, alone.logprob_NT), (found.entropy_NT, alone.entropy_NT)):
        torch.testing.assert_close(by_turn(together_NT, alone_NT.shape[1]), alone_NT, rtol=0, atol=2e-5)
        assert together_NT[~completion_mask(rows, policy_model.device)].eq(0).all()


def test_kept_sets_belong_to_sampled_tokens():
    policy_model = networks(tiny_model())[True]
    rows, spans = turned_rows()
    generator = torch.Generator().manual_seed(5)
    sampled = rows.sampled or ()
    kept = [
        [TokenSet.of({*random_ids(generator, 9), t} if at in sampled[row] else ()) for at, t in enumerate(ids)]
        for row, ids in enumerate(rows.token_ids)
    ]
    twins = twin_rows(rows, spans)
    apart = [kept[row][slice(*span)] for row, each in enumerate(spans) for span in each]
    alone_NT = policy_model.score(replace(twins, kept_ids=apart), Scoring()).logprob_NT
    found_NT = policy_model.score(replace(rows, kept_ids=kept), Scoring()).logprob_NT
    torch.testing.assert_close(by_turn(found_NT, alone_NT.shape[1]), alone_NT, rtol=0, atol=2e-5)


@pytest.mark.parametrize("is_fast", [True, False], ids=["packed", "plain"])
def test_given_tokens_are_read_and_never_predicted(is_fast):
    """The head is never asked about them: its rows are the sampled tokens, and theirs alone are targets."""
    policy_model = networks(tiny_model())[is_fast]
    rows, _ = turned_rows()
    before = policy_model.score(rows, Scoring()).logprob_NT
    changed = [list(ids) for ids in rows.token_ids]
    changed[0][4] = (changed[0][4] + 1) % VOCABULARY  # given, between the first turn and the second
    after = policy_model.score(replace(rows, token_ids=[tuple(ids) for ids in changed]), Scoring()).logprob_NT
    torch.testing.assert_close(after[0, :5], before[0, :5], rtol=0, atol=1e-5)
    assert (after[0, 5:9] - before[0, 5:9]).abs().max() > 1e-3
    assert len(rows.targets()) == sum(end - start for each in SPANS for start, end in each)


def test_a_group_of_single_turns_makes_the_rows_it_always_made():
    plain = Completion((5, 6, 7), (-1.0, -1.0, -1.0), "stop", 0)
    turned = replace(plain, turns=(Turn(0, 1, "stop"), Turn(2, 3, "stop")))
    assert rows_of([Group(0, Problem(0, "p"), (3,), (plain, plain))]).sampled is None
    assert [list(at) for at in rows_of([Group(0, Problem(0, "p"), (3,), (plain, turned))]).sampled or ()] == [
        [0, 1, 2],
        [0, 2],
    ]
