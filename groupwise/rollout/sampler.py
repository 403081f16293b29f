"""Draws tokens. Every completion has its own stream of uniforms, so its tokens do not depend on its batch.

Shapes: R rows, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from groupwise.kernels import head as kernel
from groupwise.policy.logits_processor import apply_repetition_penalty
from groupwise.types import Sampling, TokenSet

BLOCK = 256


def uniforms(seed: tuple[int, ...], index: int, count: int) -> np.ndarray:
    """The uniforms of completion `index` of the request with this seed: a function of these numbers alone."""
    stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([*seed, index])))
    return stream.random(count)


@dataclass(frozen=True, slots=True)
class SampledTokens:
    """Drawn tokens, their log-probs under the distribution they were drawn from, and the sets they were drawn among."""

    token_R: list[int]
    logprob_R: list[float]
    kept_R: list[TokenSet] | None


def sample(
    logits_RV: Tensor,
    sampling: Sampling,
    uniform_R: np.ndarray,
    seen_RV: Tensor | None = None,
    kernels: torch.dtype | None = None,
) -> SampledTokens:
    """One token a row. `seen_RV` marks tokens under the repetition penalty. `logits_RV` may be overwritten.

    Greedy sampling (temperature 0) reports log-probs at temperature 1. `kernels` is the dtype whose kernels draw from
    the full distribution; None: torch does.
    """
    if seen_RV is not None:
        logits_RV = apply_repetition_penalty(logits_RV, seen_RV, sampling.repetition_penalty)
    if sampling.temperature == 0:
        token_R = logits_RV.argmax(-1)
        logprob_R = logits_RV.gather(1, token_R[:, None])[:, 0] - logits_RV.logsumexp(-1)
        return SampledTokens(token_R.tolist(), logprob_R.tolist(), None)
    if kernels is not None and not sampling.is_filtered:
        drawn = kernel.draw(logits_RV, sampling.temperature, torch.from_numpy(uniform_R), kernels)
        return SampledTokens(drawn[0].tolist(), drawn[1].tolist(), None)
    if sampling.temperature != 1:
        logits_RV = logits_RV.div_(sampling.temperature)
    if sampling.is_filtered:
        logits_RV = keep_likely(logits_RV, sampling)
    token_R, logprob_R = invert_cdf(logits_RV, uniform_R)
    return SampledTokens(token_R.tolist(), logprob_R.tolist(), kept_sets(logits_RV) if sampling.is_filtered else None)


def invert_cdf(logits_RV: Tensor, uniform_R: np.ndarray | Tensor) -> tuple[Tensor, Tensor]:
    """First token whose cumulative probability exceeds the uniform, and its log-prob.

    Sums run over blocks first and in float64, so that a small probability late in the vocabulary is not lost.
    """
    max_R1 = logits_RV.amax(-1, keepdim=True)
    weight_RV = F.pad((logits_RV - max_R1).exp_(), (0, -logits_RV.shape[1] % BLOCK))
    weight_RBK = weight_RV.view(len(weight_RV), -1, BLOCK)
    before_RB = weight_RBK.sum(-1).double().cumsum(-1)
    total_R1 = before_RB[:, -1:]
    target_R1 = torch.as_tensor(uniform_R)[:, None].to(total_R1) * total_R1
    block_R1 = _first_above(before_RB, target_R1)
    start_R1 = torch.where(block_R1 > 0, before_RB.gather(1, (block_R1 - 1).clamp(min=0)), 0.0)
    inside_RK = weight_RBK[torch.arange(len(weight_RBK), device=logits_RV.device), block_R1[:, 0]].double().cumsum(-1)
    token_R1 = block_R1 * BLOCK + _first_above(inside_RK, target_R1 - start_R1)
    token_R1 = token_R1.clamp(max=logits_RV.shape[1] - 1)
    logprob_R1 = logits_RV.gather(1, token_R1) - max_R1 - total_R1.log().float()
    return token_R1[:, 0], logprob_R1[:, 0]


def _first_above(cumulative: Tensor, target: Tensor) -> Tensor:
    """First index whose value exceeds the target; rounding past the end falls back to the last one that adds weight.

    Where the values are NaN it is an index all the same; the log-prob is NaN then.
    """
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()).clamp(max=cumulative.shape[1] - 1)
    return torch.minimum(torch.searchsorted(cumulative, target, right=True), last)


def keep_likely(logits_RV: Tensor, sampling: Sampling) -> Tensor:
    """Logits with everything outside the kept set at -inf: top-k, then top-p, then min-p, each on what is left."""
    if sampling.top_k > 0 and sampling.top_k < logits_RV.shape[1]:
        least_R1 = logits_RV.topk(sampling.top_k, dim=-1).values[:, -1:]
        logits_RV = logits_RV.masked_fill(logits_RV < least_R1, float("-inf"))
    if sampling.top_p < 1:
        ascending_RV = _ascending(logits_RV)
        num_dropped_R1 = (ascending_RV.softmax(-1).cumsum(-1) <= 1 - sampling.top_p).sum(-1, keepdim=True)
        least_R1 = ascending_RV.gather(1, num_dropped_R1.clamp(max=logits_RV.shape[1] - 1))
        logits_RV = logits_RV.masked_fill(logits_RV < least_R1, float("-inf"))
    if sampling.min_p > 0:
        p_RV = logits_RV.softmax(-1)
        logits_RV = logits_RV.masked_fill(p_RV < sampling.min_p * p_RV.amax(-1, keepdim=True), float("-inf"))
    return logits_RV


def _ascending(values_RV: Tensor) -> Tensor:
    """Each row sorted. On a CPU numpy sorts numbers without their places in a tenth of torch's time."""
    if values_RV.device.type == "cpu":
        return torch.from_numpy(np.sort(values_RV.numpy(), axis=-1))
    return values_RV.sort(dim=-1).values


def kept_sets(logits_RV: Tensor) -> list[TokenSet]:
    """The tokens of each row that are above -inf."""
    keep_RV = logits_RV > float("-inf")
    count_R = keep_RV.sum(-1).tolist()
    ids = keep_RV.nonzero()[:, 1].int().cpu().numpy()
    return [_compact(row, logits_RV.shape[1]) for row in np.split(ids, np.cumsum(count_R)[:-1])]


def _compact(ids: np.ndarray, vocabulary: int) -> TokenSet:
    if 32 * len(ids) <= vocabulary:
        return TokenSet(ids.tobytes())
    mask_V = np.zeros(vocabulary, dtype=bool)
    mask_V[ids] = True
    return TokenSet(np.packbits(mask_V, bitorder="little").tobytes(), is_mask=True)
