"""The batch in the ecosystem's words, translated into prompts x completions.

There, a device works on `per_device_train_batch_size` completions at a time, `gradient_accumulation_steps` of these are
one optimizer step, and a rollout may pay for several of them (`generation_batch_size` or `steps_per_generation`).
Here, `prompts_per_step` x `num_generations` completions are one rollout, cut into `num_minibatches` optimizer steps.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil
from typing import Any

from groupwise.config.compat.conventions import DEFAULT_BATCH
from groupwise.config.compat.translate import Translation
from groupwise.config.normalize import whole

WORDS = (
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "generation_batch_size",
    "steps_per_generation",
)
_COUNTED_IN_UPDATES = ("max_steps", "save_steps", "eval_steps", "logging_steps", "ref_model_sync_steps")


def translate_batch(state: Translation) -> Translation:
    """Set `prompts_per_step` and `num_minibatches` from whichever of the words were written."""
    if (legacy := state.written.get("per_gpu_train_batch_size")) is not None:
        state = replace(state, written={"per_device_train_batch_size": legacy, **state.written})
    words = {word: whole(state.written[word]) for word in WORDS if state.written.get(word) is not None}
    if not words and "prompts_per_step" not in state.fields:
        words = dict(DEFAULT_BATCH[state.conventions])
    generations = state.fields.get("num_generations", 8)
    if not words or not _are_counts(state, {**words, **_ours(state), "num_generations": generations}):
        return state
    update = _completions_per_update(state, words, generations)
    rollout = _completions_per_rollout(state, words, update) if update else None
    if not update or not rollout or not _are_whole_groups(state, words, update, rollout, generations):
        return state
    state = state.with_key("prompts_per_step", rollout // generations, _product(words, rollout))
    state = state.with_key("num_minibatches", rollout // update, "generation_batch_size or steps_per_generation")
    return _recount(state, rollout // update)


def _ours(state: Translation) -> dict[str, Any]:
    """Our own words for the batch that were written beside the others."""
    names = ("prompts_per_step", "num_minibatches", "num_iterations")
    return {name: state.fields[name] for name in names if name in state.fields}


def _are_counts(state: Translation, numbers: dict[str, Any]) -> bool:
    wrong = {name: n for name, n in numbers.items() if not isinstance(n, int) or isinstance(n, bool) or n < 1}
    for name, value in wrong.items():
        if name in WORDS:
            state.problems.add(f"{name} is {value!r}; expected a whole number of at least 1.")
    return not wrong


def _completions_per_update(state: Translation, words: dict[str, int], generations: int) -> int | None:
    accumulated = words.get("gradient_accumulation_steps", 1)
    prompts: int | None = state.fields.get("prompts_per_step")
    if "per_device_train_batch_size" in words or prompts is None:
        return words.get("per_device_train_batch_size", 8) * accumulated
    completions = prompts * generations // int(state.fields.get("num_minibatches", 1))
    if completions % accumulated:
        state.problems.add(f"gradient_accumulation_steps {accumulated} does not divide {completions} completions.")
        return None
    return completions


def _completions_per_rollout(state: Translation, words: dict[str, int], update: int) -> int | None:
    accumulated = words.get("gradient_accumulation_steps", 1)
    by_steps = update // accumulated * words.get("steps_per_generation", accumulated)
    stated = words.get("generation_batch_size", by_steps)
    if "steps_per_generation" in words and stated != by_steps:
        state.problems.add(
            f"generation_batch_size {stated} contradicts per_device_train_batch_size x steps_per_generation = "
            f"{by_steps}. Keep one of them."
        )
        return None
    says_rollout = "generation_batch_size" in words or "steps_per_generation" in words
    return stated if says_rollout else update * int(state.fields.get("num_minibatches", 1))


def _are_whole_groups(state: Translation, words: dict[str, int], update: int, rollout: int, generations: int) -> bool:
    if update % generations:
        fitting = [str(n) for n in range(2, update + 1) if update % n == 0]
        choice = f"num_generations to {' or '.join(fitting)}, or " if fitting else ""
        below, above = update // generations * generations, ceil(update / generations) * generations
        products = f"{below} or {above}" if below else str(above)
        state.problems.add(
            f"{_product(words, update)} = {update} completions in one optimizer step, which is not a multiple of "
            f"num_generations {generations}. Set {choice}the product to {products}."
        )
    elif rollout % update:
        state.problems.add(
            f"a rollout of {rollout} completions cannot be cut into optimizer steps of {update}: make "
            "generation_batch_size a multiple of per_device_train_batch_size x gradient_accumulation_steps."
        )
    return not (update % generations or rollout % update)


def _product(words: dict[str, int], completions: int) -> str:
    device, accumulated = words.get("per_device_train_batch_size"), words.get("gradient_accumulation_steps", 1)
    if device is None:
        device = completions // accumulated
    return f"per_device_train_batch_size {device} x gradient_accumulation_steps {accumulated}"


def _recount(state: Translation, minibatches: int) -> Translation:
    """There, steps are optimizer steps; here, a step is a rollout and all the optimizer steps it pays for."""
    updates = minibatches * int(state.fields.get("num_iterations", 1))
    for name in _COUNTED_IN_UPDATES if updates > 1 else ():
        written = state.fields.get(name)
        if isinstance(written, int) and written > 1 and name in state.written:
            steps = ceil(written / updates)
            note = f"{name} {written} optimizer steps = {steps} steps of {updates} updates."
            state = state.with_fields(**{name: steps}).with_note(note)
    return state
