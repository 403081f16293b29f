"""Decides whether a model takes the fast path: packed learner, engine and plain pass must agree in float32."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from dataclasses import replace

import torch
from torch import nn

from groupwise.errors import ModelError
from groupwise.policy.fused_model import FusedModel
from groupwise.policy.packing import CompletionRows
from groupwise.policy.policy_model import PolicyModel, Scoring
from groupwise.policy.quantized import quantization_of
from groupwise.policy.truncated_model import truncate_layers
from groupwise.rollout.native import NativeEngine
from groupwise.transformers_internals import rescale_interval
from groupwise.types import Request, Sampling

_log = logging.getLogger(__name__)

TOLERANCE = 1e-4
"""Largest difference of a log-prob in float32, at a temperature of 1 or more; a lower one widens rounding too."""
PLAIN = Sampling()


def build_policy_model(
    model: nn.Module,
    dtype: torch.dtype,
    *,
    gradient_checkpointing: bool = False,
    engine: str = "auto",
    sampling: Sampling = PLAIN,
) -> PolicyModel:
    """The model with its fast path where that agrees under the run's sampling, else with the reason why not.

    Raises:
        ModelError: a pass would change the model's weights.
    """
    _refuse_scaling_in_place(model)
    if engine == "transformers":
        return PolicyModel(model, dtype, None, "the recipe asks for engine: transformers")
    why = why_not_fast(model, sampling)
    if why is None:
        fused = FusedModel(model, dtype, gradient_checkpointing=gradient_checkpointing)
        if fused.why_no_kernels is not None:
            _log.warning(f"No compiled kernels: {fused.why_no_kernels}. A step takes about twice as long without them.")
        return PolicyModel(model, dtype, fused)
    _log.warning(f"This model takes the slow path (plain padded passes and transformers' own decoding): {why}.")
    return PolicyModel(model, dtype, None, why)


def _refuse_scaling_in_place(model: nn.Module) -> None:
    """Refuse RWKV that divides weights of its later layers outside of training mode: it would be saved like that."""
    for module in model.modules():
        if (every := rescale_interval(module)) > 0:
            raise ModelError(
                f"{type(model).__name__} scales its weights in place outside of training mode (its configuration has "
                f"rescale_every: {every}), so the saved model would be another one. Set that to 0, for example by "
                "model_init_kwargs: {rescale_every: 0}."
            )


def why_not_fast(model: nn.Module, sampling: Sampling = PLAIN) -> str | None:
    """None when the fast passes give what the model itself gives, in float32 on one short group; else the reason.

    A model of many layers is compared on a few of them first: all of them in float32 can be too large.
    """
    if (method := quantization_of(model)) is not None:
        return f"its weights are quantized ({method})"
    with contextlib.suppress(Exception):  # a model that cannot be cut is compared as it is
        if _why_not(truncate_layers(model), sampling) is None:
            return None
    return _why_not(model, sampling)


def _why_not(model: nn.Module, sampling: Sampling) -> str | None:
    tolerance = TOLERANCE / min(sampling.temperature, 1.0)
    is_float32 = all(p.dtype == torch.float32 for p in model.parameters())
    exact = model if is_float32 else copy.deepcopy(model).float()
    try:
        fused = FusedModel(exact, torch.float32)
        fused.refresh()
        return _gap_too_large("packed", _learner_gap(exact, fused), TOLERANCE) or _gap_too_large(
            "the engine's", _engine_gap(exact, fused, sampling), tolerance
        )
    except torch.OutOfMemoryError as error:  # the slow path needs more
        reason = str(error).strip().split("\n")[0]
        raise ModelError(
            f"The GPU's memory ran out while the model was tried on a short text ({reason}) Free it of other programs, "
            "or take a smaller model."
        ) from error
    except Exception as error:  # any failure of an unknown architecture is a reason against the fast path
        detail = str(error).split("\n")[0]
        return detail if isinstance(error, NotImplementedError) else f"{type(error).__name__}: {detail}"


def _gap_too_large(whose: str, gap: float, tolerance: float) -> str | None:
    if gap <= tolerance:
        return None
    if math.isnan(gap):
        return "its log-probs are not finite"
    return f"{whose} log-probs differ from the model's own by {gap:.2g} (at most {tolerance:g} is allowed)"


def _probe(model: nn.Module) -> CompletionRows:
    """Two groups of short, different completions from arbitrary ids."""
    vocabulary = model.get_input_embeddings().weight.shape[0]  # type: ignore[operator]
    ids = torch.randint(vocabulary // 8, vocabulary, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    prompts = [tuple(ids[:11])] * 3 + [tuple(ids[11:18])] * 2
    completions = [tuple(ids[20:26]), tuple(ids[26:27]), tuple(ids[27:31]), tuple(ids[31:34]), tuple(ids[34:40])]
    return CompletionRows(prompts, completions, [0, 0, 0, 1, 1])


def _learner_gap(model: nn.Module, fused: FusedModel) -> float:
    rows, scoring = _probe(model), Scoring(temperature=0.7)
    plain = PolicyModel(model, torch.float32, None).score(rows, scoring)
    packed = PolicyModel(model, torch.float32, fused).score(rows, scoring)
    return float((plain.logprob_NT - packed.logprob_NT).abs().max())


def _engine_gap(model: nn.Module, fused: FusedModel, sampling: Sampling) -> float:
    """Over five tokens of each completion, sampled as the run samples."""
    probe = _probe(model)
    sampling = replace(sampling, max_tokens=5, stop_ids=(), stop=())
    scoring = Scoring(sampling.temperature, sampling.repetition_penalty)
    requests = [
        Request(prompt, count, sampling) for prompt, count in ((probe.prompt_ids[0], 3), (probe.prompt_ids[3], 2))
    ]
    prompts, ids, groups, kept, logprobs = [], [], [], [], []
    for number, completions in NativeEngine(fused, max_concurrent=3).generate(requests):
        for completion in completions:
            prompts.append(requests[number].prompt_ids)
            ids.append(completion.token_ids)
            groups.append(number)
            kept.append(completion.kept_ids)
            logprobs.append(torch.tensor(completion.rollout_logprob))
    rows = CompletionRows(prompts, ids, groups, kept if sampling.is_filtered else None)
    plain = PolicyModel(model, torch.float32, None).score(rows, scoring)
    rollout_NT = nn.utils.rnn.pad_sequence(logprobs, batch_first=True).to(plain.logprob_NT.device)
    return float((plain.logprob_NT - rollout_NT).abs().max())
