"""The engine: batches, limits and restrictions change what a completion costs, never which completion it is.

The independent reference for restricted sampling is transformers' own logits processors over the model's own logits.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import pytest
import torch
import transformers
from tiny import EOS, random_rows, tiny_model, tiny_tokenizer, with_lora
from torch.nn.utils.rnn import pad_sequence

from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.engine import Engine
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.plain import PlainEngine
from groupwise.types import Completion, Request, Sampling

PLAIN = Sampling(max_tokens=10, stop_ids=(EOS, 7))
RESTRICTED = {
    "temperature": replace(PLAIN, temperature=0.6),
    "greedy": replace(PLAIN, temperature=0.0),
    "top_k": replace(PLAIN, temperature=1.3, top_k=5),
    "top_p": replace(PLAIN, temperature=1.7, top_p=0.7),
    "min_p": replace(PLAIN, temperature=2.0, min_p=0.1),
    "penalty": replace(PLAIN, repetition_penalty=1.4),
    "greedy penalty": replace(PLAIN, temperature=0.0, repetition_penalty=1.4),
    "all": replace(PLAIN, temperature=1.5, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.2),
}
PROMPTS = [
    rows.prompt_ids[0] for rows in (random_rows((n,), ((1,),), seed=n) for n in (9, 1, 17, 9, 4))
]  # lengths differ, one has one token


@pytest.fixture(scope="module")
def model() -> Any:
    return with_lora(tiny_model("mistral-window"))


def requests(sampling: Sampling, counts: tuple[int, ...] = (4, 1, 3, 5, 2)) -> list[Request]:
    tokenizer = tiny_tokenizer()
    return [
        Request(prompt, count, sampling, seed=(3, number), decode=tokenizer.decode)
        for number, (prompt, count) in enumerate(zip(PROMPTS, counts, strict=True))
    ]


def native(model: Any, max_concurrent: int = 64) -> NativeEngine:
    engine = NativeEngine(FusedModel(model, torch.float32), max_concurrent=max_concurrent)
    engine.load_weights(None, version=4)
    return engine


def answers(engine: Engine, asked: list[Request]) -> list[list[Completion]]:
    answered = dict(engine.generate(asked))
    assert sorted(answered) == list(range(len(asked)))
    return [answered[number] for number in range(len(asked))]


def assert_same(found: list[list[Completion]], expected: list[list[Completion]]) -> None:
    for mine, theirs in zip(chain.from_iterable(found), chain.from_iterable(expected), strict=True):
        assert (mine.token_ids, mine.stop_reason, mine.kept_ids) == (
            theirs.token_ids,
            theirs.stop_reason,
            theirs.kept_ids,
        )
        assert mine.rollout_logprob == pytest.approx(theirs.rollout_logprob, abs=2e-5)


@pytest.mark.parametrize("name", ["llama", "mistral-window", "gemma3"])
def test_a_step_that_can_be_recorded_is_the_same_step(name):
    """Static shapes and a clock on the device, as a CUDA graph needs them; caches grow on the way."""
    fused = FusedModel(with_lora(tiny_model(name)), torch.float32)
    fused.drop_kernels()
    sampling = Sampling(max_tokens=150, stop_ids=(EOS,))
    found = []
    for records in (False, True):
        engine = NativeEngine(fused, max_concurrent=6, records=records)
        engine.load_weights(None, version=4)
        found.append(answers(engine, requests(sampling)))
    assert max(len(c.token_ids) for c in chain.from_iterable(found[0])) > 128
    assert_same(found[1], found[0])


@pytest.mark.parametrize("max_concurrent", [1, 2, 3, 6])
def test_rows_leave_and_enter_without_changing_any_completion(model, max_concurrent):
    asked = requests(PLAIN)
    everything_at_once = answers(native(model), asked)
    assert (
        len({len(c.token_ids) for group in everything_at_once for c in group}) > 3
    )  # they do finish at different times
    assert_same(answers(native(model, max_concurrent), asked), everything_at_once)


def test_a_completion_belongs_to_its_seed_and_not_to_its_batch(model):
    together = answers(native(model), requests(PLAIN))
    for number, request in enumerate(requests(PLAIN)):
        assert_same(answers(native(model), [request]), [together[number]])
    more = answers(native(model), requests(PLAIN, (6, 6, 6, 6, 6)))
    assert_same([group[:n] for group, n in zip(more, (4, 1, 3, 5, 2), strict=True)], together)


def test_seeds_tell_completions_apart(model):
    (group,) = answers(native(model), [Request(PROMPTS[0], 8, PLAIN, seed=(1,))])
    (other,) = answers(native(model), [Request(PROMPTS[0], 8, PLAIN, seed=(2,))])
    assert len({c.token_ids for c in [*group, *other]}) > 12


def test_requests_that_sample_differently_share_a_call(model):
    names = ("greedy", "top_k", "penalty")
    mixed = [replace(requests(RESTRICTED[n])[i], seed=(i,)) for i, n in enumerate(names)]
    alone = [answers(native(model), [request])[0] for request in mixed]
    assert_same(answers(native(model), mixed), alone)


@pytest.mark.parametrize("name", RESTRICTED)
def test_the_plain_engine_samples_the_same_tokens(model, name):
    asked = requests(RESTRICTED[name])
    plain = PlainEngine(model, torch.float32)
    plain.load_weights(None, version=4)
    assert_same(answers(native(model), asked), answers(plain, asked))


@pytest.mark.parametrize("name", RESTRICTED)
def test_draws_come_from_the_distribution_that_transformers_would_sample(model, name):
    sampling = RESTRICTED[name]
    for request, group in zip(requests(sampling), answers(native(model), requests(sampling)), strict=True):
        for completion in group:
            for t in range(0, len(completion.token_ids), 3):
                log_p_V = reference_log_probs(model, request.prompt_ids + completion.token_ids[:t], sampling)
                token = completion.token_ids[t]
                assert float(log_p_V[token]) == pytest.approx(completion.rollout_logprob[t], abs=3e-5)
                if sampling.temperature == 0:
                    assert token == int(log_p_V.argmax())
                elif sampling.is_filtered:
                    kept = (log_p_V > float("-inf")).nonzero()[:, 0].tolist()
                    assert completion.kept_ids[t] == tuple(kept)
                    assert len(kept) < 64


def reference_log_probs(model: Any, ids: tuple[int, ...], sampling: Sampling) -> torch.Tensor:
    """Log-probs of the next token, by the model's own forward pass and transformers' processors in their order."""
    input_ids = torch.tensor([ids])
    processors = transformers.LogitsProcessorList()
    if sampling.repetition_penalty != 1:
        processors.append(transformers.RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
    if sampling.temperature not in (0, 1):
        processors.append(transformers.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        processors.append(transformers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(transformers.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        processors.append(transformers.MinPLogitsWarper(sampling.min_p))
    with torch.no_grad():
        scores = processors(input_ids, model(input_ids=input_ids).logits[:, -1].float())
    return scores[0].log_softmax(-1)


@pytest.mark.parametrize("is_fast", [True, False], ids=["packed", "plain"])
@pytest.mark.parametrize("name", [n for n in RESTRICTED if "greedy" not in n])
def test_the_learner_scores_the_distribution_that_was_sampled_from(model, name, is_fast):
    sampling = RESTRICTED[name]
    asked = requests(sampling)
    pairs = [(n, c) for n, group in enumerate(answers(native(model), asked)) for c in group]
    kept = [c.kept_ids for _, c in pairs]
    rows = CompletionRows(
        [asked[n].prompt_ids for n, _ in pairs],
        [c.token_ids for _, c in pairs],
        [n for n, _ in pairs],
        kept if sampling.is_filtered else None,
    )
    policy_model = PolicyModel(model, torch.float32, FusedModel(model, torch.float32) if is_fast else None)
    scores = policy_model.score(rows, Scoring(sampling.temperature, sampling.repetition_penalty))
    rollout_NT = pad_sequence([torch.tensor(c.rollout_logprob) for _, c in pairs], batch_first=True)
    torch.testing.assert_close(scores.logprob_NT, rollout_NT, rtol=0, atol=3e-5)
    if sampling.is_filtered:
        unrestricted = policy_model.score(replace(rows, kept_ids=None), Scoring(sampling.temperature))
        assert (scores.logprob_NT - unrestricted.logprob_NT).max() > 0.05  # the full softmax would be another number
        assert (scores.entropy_NT <= unrestricted.entropy_NT.max()).all()


def test_completions_end_at_end_tokens_stop_strings_and_the_limit(model):
    tokenizer = tiny_tokenizer()
    stop = ("a", "b ", "?", "x", "9")
    sampling = replace(PLAIN, max_tokens=8, stop=stop)
    reasons = set()
    for completion in chain.from_iterable(answers(native(model), requests(sampling, (8,) * 5))):
        text, before = tokenizer.decode(completion.token_ids), tokenizer.decode(completion.token_ids[:-1])
        assert not any(s in before for s in stop)
        assert not set(completion.token_ids[:-1]) & set(sampling.stop_ids)
        ends = completion.token_ids[-1] in sampling.stop_ids
        expected = "stop" if ends else "stop_string" if any(s in text for s in stop) else "length"
        assert completion.stop_reason == expected
        assert expected != "length" or len(completion.token_ids) == 8
        reasons.add(completion.stop_reason)
    assert reasons == {"stop", "stop_string", "length"}


def test_one_token_completions_need_no_decode_step(model):
    for completion in chain.from_iterable(answers(native(model), requests(replace(PLAIN, max_tokens=1)))):
        assert len(completion.token_ids) == 1
        assert completion.policy_version == 4


@pytest.mark.parametrize("change", ["adapter", "base"])
def test_no_cached_prefix_outlives_a_weight_change(change):
    model = with_lora(tiny_model("llama")) if change == "adapter" else tiny_model("llama")
    asked = requests(PLAIN)
    engine = native(model)
    before = answers(engine, asked)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    engine.load_weights(None, version=5)
    after = answers(engine, asked)
    assert [c.token_ids for c in after[0]] != [c.token_ids for c in before[0]]
    plain = PlainEngine(model, torch.float32)
    assert_same(after, answers(plain, asked))
    assert {c.policy_version for group in after for c in group} == {5}
