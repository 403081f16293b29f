"""The parts of a run that a checkpoint holds beside tensors: name -> plain JSON, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from groupwise.checkpoint.state_tree import split
from groupwise.config.guards import defaults, resolved, with_new_names
from groupwise.train.learner import Learner


class Saveable(Protocol):
    """Something that decides how a run goes on."""

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON, a value of its own."""
        ...

    def load_state_dict(self, state: Any) -> object: ...


def state_of(parts: Mapping[str, Saveable], learner: Learner) -> dict[str, Any]:
    """The state of every part, with the learner's; small enough to be taken at every step."""
    return {
        "parts": {name: part.state_dict() for name, part in parts.items()},
        "learner": learner.state_dict(),
        "scheduler": split(learner.scheduler.state_dict(), {}, "scheduler"),
    }


def put_back(parts: Mapping[str, Saveable], state: Mapping[str, Any]) -> None:
    """Every part as it was when `state` was taken; the learner is `store.restore`'s."""
    for name, part in parts.items():
        part.load_state_dict(state["parts"][name])


_FORMAT_3 = {"order", "num_tokens", "num_updates", "watch", "best", "callbacks", "at_start"}
"""Keys that are parts now."""


def upgraded(state: dict[str, Any]) -> dict[str, Any]:
    """The state of a checkpoint in today's form and under today's names; what is no state of a run stays as it is."""
    try:
        return _with_new_names(_in_parts(state))
    except (AttributeError, KeyError, TypeError):  # `store.restore` refuses it
        return state


def _with_new_names(state: dict[str, Any]) -> dict[str, Any]:
    """Guards under the names that they have now, and the parts that not every run or version has."""
    origin, watched = state["origin"], state["parts"]["guards"]
    recipe = {**origin["recipe"]}
    if isinstance(recipe.get("guards"), Mapping):  # a guard of a later version was as it is by default
        recipe["guards"] = {**resolved(defaults()), **with_new_names(recipe["guards"])}
    absent = {"log": {"asked": []}, "ahead": {"collected": {}}, "solved": {"lowest": None, "highest": None}}
    parts = {**absent, **state["parts"]}
    parts["guards"] = {**watched, "records": with_new_names(watched["records"])}
    return {**state, "origin": {**origin, "recipe": recipe}, "parts": parts}


def _in_parts(state: dict[str, Any]) -> dict[str, Any]:
    """Format 3 had the parts side by side (`runs/manifest.py`)."""
    if "parts" in state:
        return state
    parts = {
        "order": state["order"],
        "totals": {name: state[name] for name in ("num_tokens", "num_updates")},
        "guards": state["watch"],
        "best": state["best"],
        "callbacks": state["callbacks"],
        "evaluation": {"at_start": state.get("at_start", {})},
    }
    return {**{name: value for name, value in state.items() if name not in _FORMAT_3}, "parts": parts}
