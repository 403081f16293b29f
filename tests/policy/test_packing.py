"""Packing and cutting, as properties of any set of groups."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groupwise.policy.attention import causal_mask
from groupwise.policy.packing import BUCKET, CompletionRows, Pack, micro_batches
from groupwise.policy.policy_model import completion_mask

CPU = torch.device("cpu")
tokens = st.integers(0, 9)
groups = st.lists(
    st.tuples(
        st.lists(tokens, min_size=1, max_size=6),
        st.lists(st.lists(tokens, min_size=1, max_size=7), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def as_rows(drawn) -> CompletionRows:
    triples = [(tuple(p), tuple(c), n) for n, (p, completions) in enumerate(drawn) for c in completions]
    return CompletionRows(*(list(column) for column in zip(*triples, strict=True)))


def packed_length(rows: CompletionRows, part: list[int]) -> int:
    """Tokens of a pass: each completion, and each group's prompt once."""
    prompts = {rows.group[row]: len(rows.prompt_ids[row]) for row in part}
    return sum(prompts.values()) + sum(len(rows.token_ids[row]) for row in part)


@given(groups, st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_micro_batches_hold_every_row_once_in_order_within_the_budget(drawn, budget):
    rows = as_rows(drawn)
    parts = micro_batches(rows, budget)
    assert [row for part in parts for row in part] == list(range(len(rows)))
    for number, part in enumerate(parts):
        assert part
        assert len(part) == 1 or packed_length(rows, part) <= budget
        if number + 1 < len(parts):  # nothing is cut that would have fitted
            assert packed_length(rows, [*part, parts[number + 1][0]]) > budget


@given(groups)
@settings(max_examples=60, deadline=None)
def test_the_shift_by_one_happens_once(drawn):
    """Completion token t is predicted at the position of the token before it, which stands in the pack."""
    rows = as_rows(drawn)
    pack = Pack(rows, CPU)
    assert len(pack.input_ids_P) % BUCKET == 0
    assert len(pack.input_ids_P) - pack.num_padding == sum(
        len(rows.prompt_ids[run[0]]) + sum(len(rows.token_ids[r]) - 1 for r in run) for run in rows.runs()
    )
    c = 0
    for prompt, completion in zip(rows.prompt_ids, rows.token_ids, strict=True):
        for t, token in enumerate(completion):
            place = pack.predict_C[c]
            assert pack.target_C[c] == token
            assert pack.input_ids_P[place] == (*prompt, *completion)[len(prompt) + t - 1]
            assert pack.position_ids_P[place] == len(prompt) + t - 1
            c += 1
    assert c == pack.num_targets == int(completion_mask(rows, CPU).sum())


@given(groups, st.integers(1, 1000))
@settings(max_examples=30, deadline=None)
def test_selecting_rows_keeps_each_with_its_prompt(drawn, seed):
    rows = as_rows(drawn)
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed)).tolist()[: 1 + seed % len(rows)]
    picked = rows.select(chosen)
    assert [(rows.prompt_ids[i], rows.token_ids[i], rows.group[i]) for i in chosen] == list(
        zip(picked.prompt_ids, picked.token_ids, picked.group, strict=True)
    )


@given(st.integers(1, 8), st.integers(0, 8), st.one_of(st.none(), st.integers(1, 9)))
def test_the_mask_is_causal_and_windowed(num_queries, before, window):
    num_keys = before + num_queries
    mask = causal_mask(num_queries, num_keys, window, CPU)
    for i in range(num_queries):
        for key in range(num_keys):
            distance = before + i - key
            assert bool(mask[i, key]) == (distance >= 0 and (window is None or distance < window))
