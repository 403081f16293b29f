"""Fingerprint of a run: its model, data, rewards and settings, compared when a run is resumed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from groupwise.config.changes import Change, changes, keeps_schedule
from groupwise.data.prepare import PreparedProblems
from groupwise.errors import ConfigError
from groupwise.json_values import as_text, plain_value
from groupwise.ways_out import ways_out

_ROWS = 1000
_VALUES = 64
"""Rows of the data and values of each weight in a fingerprint: enough to find a difference."""

Origin = dict[str, Any]


def origin_of(
    recipe: Mapping[str, Any],
    num_steps: int,
    problems: PreparedProblems,
    model: nn.Module,
    own_optimizer: Optimizer | None,
    machine: Mapping[str, Any],
    own_loss: str | None = None,
) -> Origin:
    """Plain JSON; `recipe` holds no secrets; `own_optimizer` is one that the user built, unknown to the recipe, and
    `own_loss` the name of a loss of that kind."""
    groups = [] if own_optimizer is None else own_optimizer.param_groups
    settings = [{k: v for k, v in group.items() if k not in ("params", "lr")} for group in groups]
    origin = {
        "recipe": dict(recipe),
        "num_steps": num_steps,
        "fingerprints": {"data": of_data(problems), "frozen weights": of_frozen_weights(model)},
        "optimizer": None if own_optimizer is None else {"name": type(own_optimizer).__name__, "groups": settings},
        "own_loss": own_loss,
        "machine": dict(machine),
    }
    plain: Origin = json.loads(json.dumps(plain_value(origin, {})))
    return plain


def compare(then: Origin, now: Origin) -> list[Change]:
    """Every change of recipe, data, model or own optimizer, but for the number of steps."""
    found = changes(then["recipe"], now["recipe"])
    for name, mark in now["fingerprints"].items():
        found.append(Change(f"the {name}", then["fingerprints"][name], mark))
    found.append(Change("the optimizer", then["optimizer"], now["optimizer"]))
    found.append(Change("policy_loss", then.get("own_loss"), now["own_loss"]))
    return [change for change in found if change.old != change.new]


def refuse_another_experiment(found: Sequence[Change]) -> None:
    """Raise `ConfigError` where going on would make one run of two experiments."""
    serious = [str(change) for change in found if change.is_another_experiment]
    if serious:
        raise ConfigError(
            f"This is not the run that was interrupted: {'; '.join(serious)}. Going on would make one record of two "
            "experiments. Set it back, start a run of its own in another output_dir, or go on all the same "
            f"({ways_out().allow_changes})."
        )


def about_length(then: Origin, now: Origin, step: int) -> str | None:
    """What another number of steps means for the learning rate, or None where it is the same."""
    old, new = then["num_steps"], now["num_steps"]
    if old == new:
        return None
    if new <= step:
        return f"The run had {old} steps and now has {new}, and {step} are done: there is nothing left to do."
    if keeps_schedule(now["recipe"]):
        return (
            f"The run had {old} steps and now has {new}. Its learning rates do not depend on that: it is the run of "
            f"{new} steps, bit for bit."
        )
    return (
        f"The run had {old} steps and now has {new}. From step {step + 1} on the learning rate follows the "
        f"{now['recipe']['lr_scheduler_type']} schedule of {new} steps; steps 1 to {step} followed the other. A run of "
        f"{new} steps from the start would differ; with lr_scheduler_type constant it would not."
    )


def about_machine(then: Origin, now: Origin) -> str | None:
    """What the last bits depend on and is no longer the same, or None."""
    old, new = then["machine"], now["machine"]
    found = [f"{name} was {old.get(name)} and is now {value}" for name, value in new.items() if old.get(name) != value]
    return f"The next steps may differ in their last bits: {'; '.join(found)}." if found else None


def of_data(problems: PreparedProblems) -> str:
    """A fingerprint of the rows, their tokens and columns; of many rows, some a constant distance apart."""
    digest = hashlib.sha256(str(len(problems)).encode())
    for row in range(0, len(problems), -(-len(problems) // _ROWS)):
        prepared = problems[row]
        digest.update(as_text([prepared.prompt_ids, prepared.problem.columns]).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()[:16]


@torch.no_grad()
def of_frozen_weights(model: nn.Module) -> str:
    """A fingerprint of the weights and saved buffers that are not trained, and so not in a checkpoint."""
    digest = hashlib.sha256()
    trained = {parameter.data_ptr() for parameter in model.parameters() if parameter.requires_grad}
    for name, tensor in _plain_tensors(model.state_dict()):
        if tensor.data_ptr() in trained:
            continue
        flat = tensor.reshape(-1)
        first = max(0, (len(flat) - _VALUES) // 2)  # side by side: a weight mapped from a file stays there
        some = flat[first : first + _VALUES].double().cpu()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(some.numpy().tobytes())
    return digest.hexdigest()[:16]


def _plain_tensors(named: Mapping[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors among the values; of a quantized one (torchao) the tensors that it is made of."""
    for name, tensor in named.items():
        if hasattr(tensor, "__tensor_flatten__"):
            inner, _ = tensor.__tensor_flatten__()
            yield from _plain_tensors({f"{name}.{part}": getattr(tensor, part) for part in inner})
        elif isinstance(tensor, torch.Tensor):
            yield name, tensor
