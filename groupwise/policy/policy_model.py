"""The policy: a model whose completions are scored by a packed fast pass or by a plain slow one.

Both give the same log-probs to rounding; `rollout/fastpath.py` compares them when a model is loaded.
Shapes: N rows, T the longest completion among them, NT arrays are padded with 0 and only sampled tokens count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from groupwise.policy.compute_limits import ComputeLimits
from groupwise.policy.deterministic import deterministic
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.head import token_logprobs
from groupwise.policy.logits_processor import logits_processor
from groupwise.policy.packing import CompletionRows, Pack
from groupwise.policy.quantized import quantization_of
from groupwise.policy.sharded_weights import ShardedWeights


@dataclass(frozen=True)
class Scoring:
    """How log-probs are taken: the distribution that was sampled from."""

    temperature: float = 1.0
    repetition_penalty: float = 1.0
    entropy_gradient: bool = False
    with_entropy: bool = True
    """Without it the entropy is left at 0, which saves a pass over the vocabulary."""


@dataclass(frozen=True)
class TokenScores:
    """Per sampled token, float32; 0 elsewhere."""

    logprob_NT: Tensor
    entropy_NT: Tensor


class PolicyModel:
    """A model with its fast path, or without one (`fused` is None) and with the reason in `why_plain`."""

    def __init__(
        self, model: nn.Module, dtype: torch.dtype, fused: FusedModel | None, why_plain: str | None = None
    ) -> None:
        self.model = model
        self.dtype = dtype
        self.fused = fused
        self.why_plain = why_plain
        self.sharded: ShardedWeights | None = None
        """The trained weights in shards over the ranks; None where each rank has them whole."""
        self.is_float32 = dtype == torch.float32 and quantization_of(model) is None
        """Whether every product is one of float32 numbers, so that engine and learner differ by rounding alone."""
        self.limits = ComputeLimits.of(self.device)

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def optimized(self) -> list[Tensor]:
        """What an optimizer moves: the trained parameters, or this rank's shards of them."""
        if self.sharded is not None:
            return list(self.sharded.masters.values())
        return [p for p in self.model.parameters() if p.requires_grad]

    def refresh(self) -> None:
        """Read weights that have changed."""
        if self.fused is not None:
            self.fused.refresh()

    @contextmanager
    def pass_over(self, rows: CompletionRows, scoring: Scoring) -> Iterator[TokenScores]:
        """Scores of the rows' tokens, differentiable where gradients are on. Run the backward pass inside."""
        if self.fused is None:
            with deterministic(self.model):
                yield plain_scores(self.model, self.dtype, rows, scoring)
            return
        pack = Pack(rows, self.fused.device)
        if self.sharded is not None and torch.is_grad_enabled():
            with self.sharded.using(pack) as call:
                yield TokenScores(*call(_packed_tensors, pack, rows, scoring))
            return
        with self.fused.using(pack):
            yield packed_scores(self.fused, pack, rows, scoring)

    @torch.no_grad()
    def score(self, rows: CompletionRows, scoring: Scoring) -> TokenScores:
        """Scores without gradient."""
        with self.pass_over(rows, scoring) as scores:
            return scores

    @contextmanager
    def adapters_off(self) -> Iterator[None]:
        """Inside, scores are those of the base model without its adapters."""
        context = self.fused.adapters_off() if self.fused is not None else self.model.disable_adapter()  # type: ignore[operator]
        with context:
            yield


def _packed_tensors(fused: FusedModel, pack: Pack, rows: CompletionRows, scoring: Scoring) -> tuple[Tensor, Tensor]:
    """`packed_scores` in the form that FSDP finds tensors in."""
    scores = packed_scores(fused, pack, rows, scoring)
    return scores.logprob_NT, scores.entropy_NT


def packed_scores(fused: FusedModel, pack: Pack, rows: CompletionRows, scoring: Scoring) -> TokenScores:
    hidden_PD = fused.hidden(pack.input_ids_P, pack.position_ids_P, pack)
    hidden_CD = hidden_PD.index_select(0, pack.predict_C)
    adjust = logits_processor(rows, scoring.repetition_penalty, hidden_CD.device)
    logprob_C, entropy_C = token_logprobs(
        fused.head,
        hidden_CD,
        pack.target_C,
        scoring.temperature,
        adjust,
        entropy_gradient=scoring.entropy_gradient,
        with_entropy=scoring.with_entropy,
    )
    mask_NT = completion_mask(rows, hidden_CD.device)
    num = pack.num_targets
    return TokenScores(_spread(logprob_C[:num], mask_NT), _spread(entropy_C[:num], mask_NT))


def _spread(values_C: Tensor, mask_NT: Tensor) -> Tensor:
    return values_C.new_zeros(mask_NT.shape).masked_scatter(mask_NT, values_C)


def completion_mask(rows: CompletionRows, device: torch.device) -> Tensor:
    """True where row n has a token t that was sampled, shape NT: given tokens are holes."""
    if rows.sampled is not None:
        return _holed_mask(rows, rows.sampled).to(device)
    lengths = torch.tensor([len(ids) for ids in rows.token_ids], device=device)
    return torch.arange(int(lengths.max()), device=device)[None, :] < lengths[:, None]


def _holed_mask(rows: CompletionRows, sampled: Sequence[Sequence[int]]) -> Tensor:
    mask_NT = torch.zeros(len(rows), max(map(len, rows.token_ids)), dtype=torch.bool)
    for row, places in enumerate(sampled):
        mask_NT[row, list(places)] = True
    return mask_NT


def plain_scores(model: nn.Module, dtype: torch.dtype, rows: CompletionRows, scoring: Scoring) -> TokenScores:
    """The slow twin: every row on its own with its prompt, right-padded, the model's own attention and head."""
    device = next(model.parameters()).device
    texts = [torch.tensor(p + c) for p, c in zip(rows.prompt_ids, rows.token_ids, strict=True)]
    input_ids = nn.utils.rnn.pad_sequence(texts, batch_first=True).to(device)
    lengths = torch.tensor([len(t) for t in texts], device=device)
    attention_mask = torch.arange(input_ids.shape[1], device=device)[None, :] < lengths[:, None]
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
        logits = model(input_ids=input_ids, attention_mask=attention_mask.long(), use_cache=False).logits
    places = [[len(p) - 1 + t for t in rows.predicted(n)] for n, p in enumerate(rows.prompt_ids)]
    logits_CV = torch.cat([logits[n, at] for n, at in enumerate(places)]).float()
    adjust = logits_processor(rows, scoring.repetition_penalty, device)
    logits_CV = (logits_CV if adjust is None else adjust(logits_CV, 0)) / (scoring.temperature or 1.0)
    log_p_CV = logits_CV.log_softmax(-1)
    target_C = torch.tensor(rows.targets(), device=device)
    entropy_C = -(log_p_CV.exp() * log_p_CV.masked_fill(log_p_CV == float("-inf"), 0.0)).sum(-1)
    mask_NT = completion_mask(rows, device)
    logprob_C = log_p_CV.gather(1, target_C[:, None])[:, 0]
    return TokenScores(_spread(logprob_C, mask_NT), _spread(entropy_C, mask_NT))
