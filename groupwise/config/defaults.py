"""What an algorithm's paper sets beside the loss, where the user has not said otherwise."""

from __future__ import annotations

from math import gcd

from groupwise.algo.objective import Objective
from groupwise.config.compat.batch_words import WORDS as BATCH_WORDS
from groupwise.config.compat.translate import FIELDS, Translation
from groupwise.config.fields import StepFields


def adopt_recipe_defaults(state: Translation, preset: str) -> None:
    """Set the fields of `Objective.recipe_defaults` that were not written, and note what they become."""
    for name, value in Objective.recipe_defaults(preset).items():
        if name in state.written or name in state.fields:
            continue
        if name not in FIELDS:
            state.notes.append(f"objective {preset}: its paper also sets {name} {value}, which groupwise does not do.")
        elif name == "num_minibatches":
            _cut(state, preset, value)
        else:
            state.fields[name] = value
            state.notes.append(f"objective {preset} sets {name} {value}.")


def _cut(state: Translation, preset: str, paper: int) -> None:
    """As many minibatches as the paper, as far as they divide the prompts of a step evenly."""
    prompts = state.fields.get("prompts_per_step", StepFields.model_fields["prompts_per_step"].default)
    if isinstance(prompts, int) and prompts > 0 and not any(word in state.written for word in BATCH_WORDS):
        state.fields["num_minibatches"] = gcd(prompts, paper)
        state.notes.append(f"objective {preset} sets num_minibatches {gcd(prompts, paper)} (its paper: {paper}).")
