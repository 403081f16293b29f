"""Defaults that an algorithm's paper sets beside the loss, for keys that the user did not write."""

from __future__ import annotations

from math import gcd

from groupwise.algo.objective import Objective
from groupwise.config.compat.batch_words import WORDS as BATCH_WORDS
from groupwise.config.compat.translate import FIELDS, Translation
from groupwise.config.fields import StepFields


def adopt_recipe_defaults(state: Translation, preset: str) -> Translation:
    """Set the fields of `Objective.recipe_defaults` that were not written, and note what they become."""
    for name, value in Objective.recipe_defaults(preset).items():
        if name in state.written or name in state.fields:
            continue
        if name not in FIELDS:
            note = f"objective {preset}: its paper also sets {name} {value}, which groupwise does not do."
            state = state.with_note(note)
        elif name == "num_minibatches":
            state = _cut(state, preset, value)
        else:
            state = state.with_fields(**{name: value}).with_note(f"objective {preset} sets {name} {value}.")
    return state


def _cut(state: Translation, preset: str, paper: int) -> Translation:
    """As many minibatches as the paper, as far as they divide the prompts of a step evenly."""
    prompts = state.fields.get("prompts_per_step", StepFields.model_fields["prompts_per_step"].default)
    if not isinstance(prompts, int) or prompts <= 0 or any(word in state.written for word in BATCH_WORDS):
        return state
    parts = gcd(prompts, paper)
    note = f"objective {preset} sets num_minibatches {parts} (its paper: {paper})."
    return state.with_fields(num_minibatches=parts).with_note(note)
