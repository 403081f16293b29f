"""How a completion ends, token by token, and the engine that recites."""

from __future__ import annotations

import pytest
from tiny import EOS, tiny_tokenizer

from groupwise.rollout.scripted import ScriptedEngine
from groupwise.rollout.sequences import new_sequences
from groupwise.rollout.stop_strings import TAIL_MARGIN
from groupwise.types import Request, Sampling

TOKENIZER = tiny_tokenizer()


def grow(text_or_ids, sampling: Sampling):
    """The completion after these tokens, fed until it says that it has ended."""
    ids = TOKENIZER.encode(text_or_ids) if isinstance(text_or_ids, str) else text_or_ids
    (row,) = new_sequences(0, Request((5,), 1, sampling, decode=TOKENIZER.decode))
    for token in ids:
        assert not row.is_finished
        row.append(token, -1.0, None)
        if row.is_finished:
            break
    return row


def test_the_end_token_belongs_to_the_completion():
    row = grow([10, 11, EOS, 12], Sampling(stop_ids=(EOS,)))
    assert row.finish(3).token_ids == (10, 11, EOS)
    assert row.stop_reason == "stop"
    assert len(row.finish(3).rollout_logprob) == 3


def test_the_limit_truncates_and_an_end_token_on_the_limit_does_not():
    assert grow([10, 11, 12], Sampling(max_tokens=2)).finish(0).is_truncated
    assert not grow([10, EOS], Sampling(max_tokens=2, stop_ids=(EOS,))).finish(0).is_truncated


@pytest.mark.parametrize("before", ["", "x" * (TAIL_MARGIN + 30)])
def test_a_stop_string_is_found_where_it_ends(before):
    row = grow(before + "one two three", Sampling(stop=("two", "never")))
    assert TOKENIZER.decode(row.token_ids) == before + "one two"
    assert row.stop_reason == "stop_string"
    assert not row.finish(0).is_truncated, "ending by a stop string is no truncation"


def test_uniforms_run_along_the_tokens():
    (row,) = new_sequences(0, Request((5,), 1, Sampling(max_tokens=4), seed=(1, 2)))
    drawn = []
    for token in (10, 11, 12):
        drawn.append(row.next_uniform())
        assert row.next_uniform() == drawn[-1], "asking twice does not spend one"
        row.append(token, 0.0, None)
    assert len(set(drawn)) == 3


def test_the_scripted_engine_recites_and_stamps():
    engine = ScriptedEngine(lambda request, index: [*request.prompt_ids, 20 + index, EOS])
    engine.load_weights(None, 7)
    sampling = Sampling(stop_ids=(EOS,), max_tokens=3)
    answered = dict(engine.generate([Request((4,), 2, sampling), Request((4, 5, 6), 1, sampling)]))
    assert [c.token_ids for c in answered[0]] == [(4, 20, EOS), (4, 21, EOS)]
    assert [c.stop_reason for c in answered[0] + answered[1]] == ["stop", "stop", "length"]
    assert {c.policy_version for c in answered[0] + answered[1]} == {7}
    assert answered[1][0].token_ids == (4, 5, 6)
    assert answered[1][0].rollout_logprob == (0.0,) * 3
