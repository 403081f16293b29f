"""From the keys a user wrote, in whatever vocabulary, to the fields of the configuration.

Every key ends in one of five ways: it is a field; it is about the objective; it is translated into fields; it is
ignored with a note; it is refused with a sentence that says what to use instead. `tables.py` says which.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from groupwise.config import objective_keys as objective
from groupwise.config.compat.foreign import Foreign
from groupwise.config.compat.transformers_names import TRANSFORMERS_FIELDS, TRANSFORMERS_LEGACY_FIELDS
from groupwise.config.compat.trl_names import TRL_FIELDS, TRL_LEGACY_FIELDS
from groupwise.config.mistakes import Problems, shown
from groupwise.config.normalize import tidy
from groupwise.config.settings import Settings
from groupwise.errors import ConfigError

FIELDS = frozenset(Settings.model_fields)
"""The fields of the configuration."""

FOREIGN: dict[str, Foreign] = {
    entry.name: entry
    for table in (TRL_FIELDS, TRANSFORMERS_FIELDS, TRL_LEGACY_FIELDS, TRANSFORMERS_LEGACY_FIELDS)
    for entry in table
}
"""Every key of TRL's GRPOConfig and of TrainingArguments, present or past."""

KNOWN_KEYS = FIELDS | objective.KEYS | frozenset(FOREIGN)
"""Every key that is understood."""

_RENAMED = {
    "evaluation_strategy": "eval_strategy",
    "torch_dtype": "dtype",
    "no_cuda": "use_cpu",
    "activation_checkpointing": "gradient_checkpointing",
    "push_to_hub_model_id": "hub_model_id",
}
_GENERATION_KEYS = {
    "max_new_tokens": "max_completion_length",
    "stop_strings": "stop",
    **{name: name for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "stop")},
}


@dataclass
class Translation:
    """What was written, and what has become of it so far."""

    written: Mapping[str, Any]
    problems: Problems
    fields: dict[str, Any] = field(default_factory=dict)
    objective: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def asked(self, name: str) -> Any:
        """The value of a key that was written and asks for something, else None."""
        value = self.written.get(name)
        return None if name in FOREIGN and FOREIGN[name].asks_for_nothing(value) else value

    def set(self, name: str, value: Any, source: str) -> None:
        """Set a field from a key of another name; a second, different value is a contradiction."""
        try:
            value = tidy(name, value)
        except ConfigError as error:
            self.problems.add(str(error))
            return
        if self.fields.setdefault(name, value) != value:
            self.problems.add(f"{name} is {self.fields[name]!r}, but {source} makes it {value!r}. Keep one of them.")


def translate(written: Mapping[str, Any], problems: Problems) -> Translation:
    """Sort the keys, then translate topic by topic."""
    odd = {name: value for name, value in written.items() if _is_no_word(name, value)}
    for name, value in odd.items():
        problems.add(f"{name} is {shown(value)}; expected a word, a number or a switch.")
    written = {name: value for name, value in written.items() if name not in odd}
    state = Translation(written, problems)
    for name, value in written.items():
        _sort(state, name, value)
    for old, new in _RENAMED.items():
        if (value := state.asked(old)) is not None:
            state.set(new, value, old)
    for topic in (_generation, _model_arguments, _precision, _schedule, _best, _order):
        topic(state)
    return state


_WITH_PARTS = {"objective", "gamma_pos", "gamma_neg", "generation_kwargs"}
_WITH_PARTS |= {name for name, entry in FOREIGN.items() if entry.kind in ("ignored", "refused")}


def _is_no_word(name: str, value: Any) -> bool:
    """Whether a key of another vocabulary has a value that is neither a word nor a number that a float can hold.

    The translations compare and count; fields of our own are checked with their type.
    """
    if name in FIELDS or name in _WITH_PARTS or name not in KNOWN_KEYS:
        return False
    is_plain = value is None or isinstance(value, str | int | float | Enum | os.PathLike)
    return not is_plain or (isinstance(value, int) and abs(value) > sys.float_info.max)


def _sort(state: Translation, name: str, value: Any) -> None:
    if name in FIELDS:
        if value is not None:
            state.set(name, value, name)
    elif name in objective.KEYS:
        state.objective[name] = value
    elif name not in FOREIGN:
        state.problems.add_unknown(name, KNOWN_KEYS)
    elif not FOREIGN[name].asks_for_nothing(value):
        _meet(state, FOREIGN[name])


def _meet(state: Translation, entry: Foreign) -> None:
    """Refuse a foreign key, or note that it is ignored. The topics translate the rest."""
    if entry.kind == "refused":
        state.problems.add(f"{entry.name} is not supported: {entry.sentence}.")
    elif entry.kind == "ignored":
        state.notes.append(f"{entry.name} is ignored: {entry.sentence}.")


def _generation(state: Translation) -> None:
    """`generation_kwargs` holds sampling fields under the names that transformers gives them."""
    asked = state.asked("generation_kwargs") or {}
    if not isinstance(asked, Mapping):
        state.problems.add(f"generation_kwargs is {shown(asked)}; expected a mapping.")
        return
    for key, value in asked.items():
        if key in _GENERATION_KEYS:
            if value is not None:
                state.set(_GENERATION_KEYS[key], value, f"generation_kwargs.{key}")
        elif key != "do_sample" or value is not True:
            known = [f"generation_kwargs.{name}" for name in _GENERATION_KEYS]
            state.problems.add_unknown(f"generation_kwargs.{key}", known, "unsupported key")


def _model_arguments(state: Translation) -> None:
    """What `model_init_kwargs` says about dtype, attention and remote code belongs to the fields of that name."""
    arguments = state.fields.get("model_init_kwargs")
    if not isinstance(arguments, Mapping):
        return
    moved = {"dtype": "dtype", "torch_dtype": "dtype"}
    moved |= {name: name for name in ("attn_implementation", "trust_remote_code")}
    for key, name in moved.items():
        if arguments.get(key) is not None:
            state.set(name, arguments[key], f"model_init_kwargs.{key}")
    state.fields["model_init_kwargs"] = {key: value for key, value in arguments.items() if key not in moved}


def _precision(state: Translation) -> None:
    """`bf16` asks for bfloat16 where that is fast. False only says something when nothing else does."""
    bf16 = state.written.get("bf16")
    if bf16 and state.fields.get("dtype") != "bfloat16":
        state.set("dtype", "auto", "bf16")
    elif bf16 is False:
        state.fields.setdefault("dtype", "float32")


def _schedule(state: Translation) -> None:
    """Strategies and warm-up."""
    fields = state.fields
    warmup = fields.get("warmup_steps")
    if isinstance(warmup, float) and 0 < warmup < 1:
        del fields["warmup_steps"]
        state.set("warmup_ratio", warmup, "warmup_steps")
    logging = tidy("save_strategy", state.asked("logging_strategy"))
    if logging == "no":
        state.set("logging_steps", 0, "logging_strategy")
    elif logging not in {None, "steps"}:
        state.notes.append(f"logging_strategy {logging} is ignored: `logging_steps` says how often a line is shown.")
    if fields.get("eval_steps") is not None:
        fields.setdefault("eval_strategy", "steps")
    elif fields.get("eval_strategy") == "steps":
        fields["eval_steps"] = fields.get("logging_steps") or 500
        state.notes.append(f"eval_strategy steps without eval_steps: every {fields['eval_steps']} steps.")


def _best(state: Translation) -> None:
    """What evaluations are compared by, spelt out for callbacks: `EarlyStoppingCallback` takes a null for "less"."""
    fields = state.fields
    if fields.get("load_best_model_at_end") and fields.get("metric_for_best_model") is None:
        fields["metric_for_best_model"] = "eval_reward"
    if fields.get("metric_for_best_model") is not None and fields.get("greater_is_better") is None:
        fields["greater_is_better"] = True


def _order(state: Translation) -> None:
    """`train_sampling_strategy` says whether the order is shuffled."""
    strategy = state.asked("train_sampling_strategy")
    if strategy == "sequential":
        state.set("shuffle_dataset", False, "train_sampling_strategy")
    elif strategy is not None:
        state.notes.append(f"train_sampling_strategy {strategy} is ignored: completions are packed, not padded.")
