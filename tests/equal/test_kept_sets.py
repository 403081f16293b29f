"""Filters over a vocabulary of real size: the learner scores each token among the very tokens it was drawn from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from api_helpers import trainer
from tiny import random_rows, tiny_model, tiny_tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from groupwise import GRPOConfig
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.rollout.native import NativeEngine
from groupwise.rollout.plain import PlainEngine
from groupwise.runs.reader import RunReader
from groupwise.types import Request, Sampling, TokenSet

VOCABULARY = 49_152
FILTERS: dict[str, dict[str, float]] = {
    "top_p 0.9": {"top_p": 0.9},
    "top_p 0.95": {"top_p": 0.95},
    "min_p 1e-5": {"min_p": 1e-5},
    "top_k 5000": {"top_k": 5000},
    "top_k 50": {"top_k": 50},
    "all three, hot": {"top_k": 20_000, "top_p": 0.99, "min_p": 1e-4, "temperature": 2.0},
    "nearly everything": {"top_p": 0.999999, "temperature": 3.0},
}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model(vocab_size=VOCABULARY)


def kept_by_hand(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """Log-probs of the filtered distribution in float64, filtered by k, then p, then min."""
    log_p = (logits_V.double() / sampling.temperature).log_softmax(-1)
    if sampling.top_k:
        log_p = log_p.masked_fill(log_p < log_p.topk(sampling.top_k).values[-1], float("-inf")).log_softmax(-1)
    if sampling.top_p < 1:
        order = log_p.argsort(descending=True)
        before = log_p[order].exp().cumsum(0) - log_p[order].exp()
        log_p = log_p.index_fill(0, order[before >= sampling.top_p], float("-inf")).log_softmax(-1)
    if sampling.min_p:
        log_p = log_p.masked_fill(log_p.exp() < sampling.min_p * log_p.exp().max(), float("-inf")).log_softmax(-1)
    return log_p


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("name", FILTERS)
def test_kept_sets_of_any_size_are_recorded_and_scored(model: Any, name: str, engine: str) -> None:
    sampling = Sampling(max_tokens=5, **{"temperature": 1.0, **FILTERS[name]})  # type: ignore[arg-type]
    fused = FusedModel(model, torch.float32)
    sampler = NativeEngine(fused) if engine == "native" else PlainEngine(model, torch.float32)
    sampler.load_weights(None, 0)
    requests = [
        Request(prompt, 3, sampling, seed=(number,)) for number, prompt in enumerate(random_rows().prompt_ids[2:4])
    ]
    pairs = [(number, c) for number, group in sampler.generate(requests) for c in group]
    kept = [c.kept_ids for _, c in pairs]
    rows = CompletionRows(
        [requests[n].prompt_ids for n, _ in pairs], [c.token_ids for _, c in pairs], [n for n, _ in pairs], kept
    )
    rollout_NT = pad_sequence([torch.tensor(c.rollout_logprob) for _, c in pairs], batch_first=True)
    for way in (fused, None):
        scores = PolicyModel(model, torch.float32, way).score(rows, Scoring(sampling.temperature))
        torch.testing.assert_close(scores.logprob_NT, rollout_NT, rtol=0, atol=2e-5)
    sizes = []
    for number, completion in pairs[:4]:
        text = torch.tensor([requests[number].prompt_ids + completion.token_ids])
        with torch.no_grad():
            logits_TV = model(text).logits[0, len(requests[number].prompt_ids) - 1 :]
        for logits_V, token, logprob, found in zip(
            logits_TV, completion.token_ids, completion.rollout_logprob, completion.kept_ids, strict=False
        ):
            ids = list(found)
            among_them = (logits_V.double() / sampling.temperature)[ids].log_softmax(-1)
            assert logprob == pytest.approx(float(among_them[ids.index(token)]), abs=2e-5)
            log_p_V = kept_by_hand(logits_V, sampling)
            expected = set((log_p_V > float("-inf")).nonzero()[:, 0].tolist())
            edge = set(ids) ^ expected  # the last token before the bound may differ by rounding
            assert len(edge) <= max(2, len(expected) // 2000)
            assert len(found.data) <= min(4 * len(found), VOCABULARY // 8)
            sizes.append(len(found))
    assert name == "top_k 50" or max(sizes) > 1024


@pytest.mark.parametrize("engine", ["native", "transformers"])
@pytest.mark.parametrize("name", ["top_p 0.95", "min_p 1e-5", "top_k 5000"])
def test_a_run_with_a_filter_is_exact(model: Any, name: str, engine: str, tmp_path: Path) -> None:
    settings = {**FILTERS[name], "engine": engine, "beta": 0.04, "max_steps": 2, "num_iterations": 2}
    trainer(tmp_path, model=model, rest={"processing_class": tiny_tokenizer()}, **settings).train()
    records = RunReader(tmp_path).metrics()
    assert len(records) == 2
    for record in records:
        assert record["sampling/mismatch"] == pytest.approx(1, abs=1e-5)
        assert 0 <= record["kl"] < 1


def test_no_number_of_tokens_is_too_many_to_keep() -> None:
    assert GRPOConfig(top_k=5000).top_k == 5000


@pytest.mark.parametrize("ids", [(0,), (3, 7, 8), tuple(range(100)), tuple(range(5, 96, 3)), (99,)])
def test_a_set_of_tokens_is_the_same_sequence_however_it_is_held(ids: tuple[int, ...]) -> None:
    as_ids, as_mask = TokenSet.of(ids), TokenSet.of(ids, as_mask=True)
    for held in (as_ids, as_mask, TokenSet.of(reversed(ids))):
        assert held == ids
        assert tuple(held) == ids
        assert (len(held), held[-1], held[0]) == (len(ids), ids[-1], ids[0])
        assert [i in held for i in range(101)] == [i in ids for i in range(101)]
        assert held.index(ids[-1]) == len(ids) - 1
        assert hash(held) == hash(as_ids)
    assert as_ids == as_mask
    assert as_ids != (*ids, 200)


def test_a_row_without_sets_keeps_everything_beside_one_that_has_some() -> None:
    small, rows = tiny_model(), random_rows()
    sets = tuple(TokenSet.of({token, 5, 9}) for token in rows.token_ids[0])
    mixed = replace(rows, kept_ids=[None if n != 2 else sets for n in range(len(rows))], token_ids=_moved(rows))
    for way in (FusedModel(small, torch.float32), None):
        policy_model = PolicyModel(small, torch.float32, way)
        found = policy_model.score(mixed, Scoring()).logprob_NT
        free = policy_model.score(replace(mixed, kept_ids=None), Scoring()).logprob_NT
        others = [n for n in range(len(rows)) if n != 2]
        torch.testing.assert_close(found[others], free[others], rtol=0, atol=2e-5)
        assert (found[2, : len(sets)] > free[2, : len(sets)]).all()


def _moved(rows: CompletionRows) -> list[tuple[int, ...]]:
    """The completions with the first one's tokens in the third place too."""
    return [rows.token_ids[0] if n == 2 else ids for n, ids in enumerate(rows.token_ids)]
