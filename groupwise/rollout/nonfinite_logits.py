"""Reports logits that are not finite: the token that cannot be drawn, and the module where they begin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from groupwise.errors import RolloutError
from groupwise.policy.deterministic import deterministic
from groupwise.types import Request


class NonFiniteLogitsError(Exception):
    """A token has no finite log-prob; completion `index` of the request had `token_ids` so far."""

    def __init__(self, request: Request, index: int, token_ids: Sequence[int]) -> None:
        super().__init__(request, index)
        self.request, self.index, self.token_ids = request, index, token_ids


@contextmanager
def locate_nonfinite(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Inside, a token that cannot be drawn is traced by a pass of the model's own code.

    Raises:
        RolloutError: names the token and where the numbers stop being finite.
    """
    try:
        yield
    except NonFiniteLogitsError as error:
        request = error.request
        raise RolloutError(
            f"Token {len(error.token_ids) + 1} of completion {error.index + 1} of {request.label} cannot be drawn: its "
            f"logits are not finite. {_where(model, dtype, request, error.token_ids)}"
        ) from None


@torch.no_grad()
def _where(model: Any, dtype: torch.dtype, request: Request, token_ids: Sequence[int]) -> str:
    """One or two sentences on the first module whose output is not finite."""
    device = next(model.parameters()).device
    ids = torch.tensor([[*request.prompt_ids, *token_ids]], device=device)
    seen: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(deterministic(model))
        stack.enter_context(torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16))
        for name, module in model.named_modules():
            hook = module.register_forward_hook(partial(_check_output, seen, name))
            stack.callback(hook.remove)
        model(input_ids=ids, use_cache=False)
    if seen:
        return seen[0]
    temperature, penalty = request.sampling.temperature, request.sampling.repetition_penalty
    return (
        f"They are finite in a pass of the model's own code over the same tokens: temperature ({temperature:g}) or "
        f"repetition_penalty ({penalty:g}) may be too close to 0 (a temperature of 0 itself is greedy); else set "
        "engine: transformers."
    )


def _check_output(seen: list[str], name: str, module: nn.Module, inputs: Any, output: Any) -> None:
    """Record the first module to finish with numbers that are not finite."""
    is_whole = next(module.children(), None) is None
    if seen or (odd := _not_finite(output, may_mask=not is_whole)) is None:
        return
    what, dtype = ("NaN" if bool(odd.isnan().any()) else "infinity"), str(odd.dtype).removeprefix("torch.")
    damaged = [n for n, p in module.named_parameters() if not bool(p.isfinite().all())]
    if damaged:
        why = f", whose {damaged[0]} is not finite. Load the model again, or go back to a checkpoint."
    elif _not_finite(inputs) is not None:
        why = f" ({dtype}), which is given {what} already."
    elif odd.dtype == torch.float16:
        why = ", beyond the range of float16: load the model in another dtype (model_init_kwargs: {dtype: float32})."
    else:
        why = f" ({dtype}), whose weights are finite: it overflows or divides by 0, as DoRA does over a row of zeros."
    seen.append(f"{what} is first seen in the output of {name}{why}")


def _not_finite(values: Any, *, may_mask: bool = True) -> Tensor | None:
    """The first tensor among the values with NaN or infinity; -inf is no such number where it may be a mask."""
    if isinstance(values, Tensor):
        if not values.is_floating_point():
            return None
        is_odd = values.isnan() | (values == float("inf")) if may_mask else ~values.isfinite()
        return values if bool(is_odd.any()) else None
    parts = values.values() if isinstance(values, Mapping) else values if isinstance(values, tuple | list) else ()
    return next((odd for part in parts if (odd := _not_finite(part, may_mask=may_mask)) is not None), None)
