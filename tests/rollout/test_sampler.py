"""Drawing: the right token for a uniform, the right distribution for many, a stream for each completion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from groupwise.policy.logits_processor import apply_repetition_penalty
from groupwise.rollout.sampler import BLOCK, invert_cdf, keep_likely, sample, uniforms
from groupwise.types import Sampling


def logits_of(seed: int, rows: int, vocabulary: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10_000), st.integers(2, 3 * BLOCK + 5), st.floats(0, 1, exclude_max=True))
@settings(max_examples=60, deadline=None)
def test_the_token_is_the_first_whose_cumulative_probability_exceeds_the_uniform(seed, vocabulary, uniform):
    logits = logits_of(seed, 1, vocabulary)
    (token,), (logprob,) = invert_cdf(logits.clone(), np.array([uniform]))
    p = logits[0].double().softmax(-1)
    cumulative = p.cumsum(-1)
    slack = 1e-6  # float32 weights; the draw may differ where the uniform meets an edge
    assert cumulative[token] > uniform - slack
    assert cumulative[token] - p[token] <= uniform + slack
    assert float(logprob) == pytest.approx(float(p[token].log()), abs=1e-4)


@pytest.mark.parametrize("uniform", [0.0, 0.5, np.nextafter(1, 0)])
def test_a_token_of_probability_0_is_never_drawn(uniform):
    logits = torch.full((1, 2 * BLOCK), float("-inf"))
    logits[0, [3, 300]] = torch.tensor([0.0, 1.0])
    (token,), _ = invert_cdf(logits, np.array([uniform]))
    assert int(token) == (3 if uniform == 0 else 300)


def test_frequencies_are_the_probabilities():
    vocabulary, num = 12, 40_000
    logits = logits_of(1, 1, vocabulary, scale=1.0)
    uniform = uniforms((5,), 0, num)
    drawn = sample(logits.expand(num, -1).clone(), Sampling(temperature=0.8), uniform)
    p = (logits[0] / 0.8).softmax(-1).double().numpy()
    found = np.bincount(drawn.token_R, minlength=vocabulary) / num
    assert (np.abs(found - p) < 5 * np.sqrt(p * (1 - p) / num)).all()
    assert drawn.logprob_R == pytest.approx(np.log(p)[drawn.token_R], abs=1e-4)


def test_a_stream_belongs_to_seed_and_index():
    first = uniforms((7, 3), 2, 20)
    assert (uniforms((7, 3), 2, 50)[:20] == first).all(), "a longer limit draws the same beginning"
    others = [uniforms(seed, index, 20) for seed, index in (((7, 3), 1), ((7, 4), 2), ((3, 7), 2), ((7, 3, 2), 2))]
    assert all((other != first).all() for other in others)
    assert ((first >= 0) & (first < 1)).all()


@given(st.integers(0, 10_000), st.integers(0, 9), st.floats(0.05, 1), st.floats(0, 0.9))
@settings(max_examples=60, deadline=None)
def test_kept_sets_hold_the_likeliest_tokens_and_are_never_empty(seed, top_k, top_p, min_p):
    logits = logits_of(seed, 3, 20)
    sampling = Sampling(top_k=top_k, top_p=top_p, min_p=min_p)
    keep = keep_likely(logits, sampling) > float("-inf")
    for row, kept in zip(logits, keep, strict=True):
        assert kept[row.argmax()]
        assert not (~kept).any() or row[kept].min() > row[~kept].max()
        assert not top_k or kept.sum() <= top_k
        p = row.softmax(-1)
        if not top_k and min_p == 0 and top_p < 1:  # the fewest tokens that reach top_p
            assert p[kept].sum() >= top_p - 1e-5
            assert p[kept].sum() - p[kept].min() <= top_p + 1e-5
        if not top_k and top_p == 1:
            assert torch.equal(kept, p >= min_p * p.max())


def test_a_recorded_set_is_the_one_drawn_from():
    logits = logits_of(2, 4, 20)
    sampling = Sampling(temperature=1.5, top_k=6, min_p=0.05)
    drawn = sample(logits.clone(), sampling, np.array([0.1, 0.5, 0.9, 0.999]))
    for row, token, logprob, kept in zip(logits, drawn.token_R, drawn.logprob_R, drawn.kept_R, strict=True):
        assert token in kept
        assert logprob == pytest.approx(float((row / 1.5)[list(kept)].log_softmax(-1)[kept.index(token)]), abs=1e-5)


def test_unrestricted_and_greedy_draws_record_no_set():
    for sampling in (Sampling(), Sampling(temperature=0, top_k=3), Sampling(repetition_penalty=2)):
        assert sample(logits_of(3, 2, 20), sampling, np.array([0.3, 0.6])).kept_R is None


def test_greedy_takes_the_likeliest_and_reports_its_probability():
    logits = logits_of(4, 3, 20)
    drawn = sample(logits.clone(), Sampling(temperature=0), np.zeros(3))
    assert drawn.token_R == logits.argmax(-1).tolist()
    assert drawn.logprob_R == pytest.approx(logits.log_softmax(-1).amax(-1).tolist(), abs=1e-5)


def test_a_set_is_recorded_whatever_its_size() -> None:
    logits = torch.arange(1100.0).repeat(2, 1) * 1e-6
    drawn = sample(logits.clone(), Sampling(min_p=0.5), np.array([0.5, 0.9]))
    assert drawn.kept_R == [tuple(range(1100))] * 2
    assert drawn.logprob_R == pytest.approx([-math.log(1100)] * 2, abs=1e-3)


def test_the_repetition_penalty_makes_seen_tokens_less_likely_whatever_their_sign():
    logits = torch.tensor([2.0, -2.0, 0.0, 2.0])
    seen = torch.tensor([True, True, True, False])
    assert apply_repetition_penalty(logits, seen, 1.25).tolist() == pytest.approx([1.6, -2.5, 0.0, 2.0])
